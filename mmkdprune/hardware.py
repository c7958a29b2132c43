"""On what a result was computed, in one line."""

import os
import platform

import torch


def hardware(device: torch.device | None = None, threads: bool = True) -> str:
    """Name the GPU, or the kind of CPU.

    Args:
        device (torch.device, optional): Where it was computed. Defaults to None, the GPU if there is one.
        threads (bool): Whether to add the number of threads of this process, of a CPU. Defaults to True.

    Returns:
        str: For example ``'x86_64 CPU, 2 cores, 1 threads'``.
    """
    if torch.cuda.is_available() if device is None else device.type == "cuda":
        return torch.cuda.get_device_name()
    line = f"{platform.machine()} CPU, {os.cpu_count()} cores"
    return f"{line}, {torch.get_num_threads()} threads" if threads else line
