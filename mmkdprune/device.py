"""Numbers that were drawn on the host, on their way to a device."""

import torch
from torch import Tensor


def to_device(numbers: Tensor, device: torch.device) -> Tensor:
    """Move a tensor from the host without the host waiting for it.

    Args:
        numbers (Tensor): On the CPU.
        device (torch.device): Where it is needed.

    Returns:
        Tensor: The same numbers there.
    """
    if device.type == "cuda":
        numbers = numbers.pin_memory()  # only from pinned memory the copy runs on its own
    return numbers.to(device, non_blocking=True)
