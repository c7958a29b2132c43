"""Several processes on a machine without accelerator: MMEngine's own set-up needs CUDA there."""

import os
from datetime import timedelta

import torch.distributed as torch_dist
from mmengine.config import Config
from mmengine.device import get_device

_TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def prepare_launch(config: Config, launcher: str) -> None:
    """Check the launcher's surroundings; without accelerator start gloo and choose a wrapper that keeps to the CPU.

    MMEngine calls ``torch.cuda.set_device`` while it initialises a process group, and passes a CUDA device to DDP. A
    group that is there already and a wrapper from the config make it skip both.

    Args:
        config: Gets a ``model_wrapper_cfg`` where needed (changed in place).
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.

    Raises:
        ValueError: The launcher cannot work here.
    """
    if launcher == "none":
        return
    missing = [name for name in _TORCHRUN_VARIABLES if name not in os.environ]
    if launcher == "pytorch" and missing:
        raise ValueError(
            f"--launcher pytorch needs {', '.join(missing)} in the environment, as torchrun sets them: start several "
            "processes with `bash tools/dist_train.sh CONFIG GPUS` (or tools/dist_test.sh)"
        )
    if get_device() != "cpu":
        return
    if launcher != "pytorch":
        raise ValueError(
            f"--launcher {launcher} needs GPUs and none is visible; on CPUs use `bash tools/dist_train.sh`"
        )
    if not torch_dist.is_initialized():
        settings = config.get("env_cfg", {}).get("dist_cfg", {})
        seconds = settings.get("timeout")
        torch_dist.init_process_group("gloo", timeout=timedelta(seconds=seconds) if seconds else None)
    wrapper = config.get("model_wrapper_cfg")
    if wrapper is None:
        unused = config.get("find_unused_parameters", False)
        config.model_wrapper_cfg = {
            "type": "MMDistributedDataParallel",
            "broadcast_buffers": False,
            "find_unused_parameters": unused,
        }
    # MMEngine fills an absent `device_ids` with the local rank, which DDP refuses for a model on the CPU.
    config.model_wrapper_cfg.setdefault("device_ids", None)
