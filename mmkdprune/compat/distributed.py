"""Several processes on a machine without accelerator: MMEngine's own set-up needs CUDA there."""

import math
import os
import sys
from datetime import timedelta

import torch
import torch.distributed as torch_dist
from mmengine.config import Config
from mmengine.device import get_device

# Seconds after which a process that waits for another one gives up. PyTorch has 10 minutes for NCCL, 30 for gloo.
TIMEOUT = 600
_TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Where each launcher tells a process which GPU it takes, and how many processes this machine has.
_LOCAL_VARIABLES = {
    "pytorch": ("LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    "slurm": ("SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),
    "mpi": ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
}


def prepare_launch(config: Config, launcher: str) -> None:
    """Check the launcher's surroundings; without accelerator start gloo and choose a wrapper that keeps to the CPU.

    MMEngine calls ``torch.cuda.set_device`` while it initialises a process group, and passes a CUDA device to DDP. A
    group that is there already and a wrapper from the config make it skip both.

    A process that hangs or is stopped ends the others: they wait for it for 10 minutes, or as many seconds as
    ``env_cfg.dist_cfg.timeout`` says.

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
            "processes with `mmkdprune train CONFIG --gpus NUMBER` (or `mmkdprune test`)"
        )
    if launcher == "slurm" and "SLURM_PROCID" not in os.environ:
        raise ValueError(
            "--launcher slurm needs SLURM_PROCID and more in the environment, as srun sets them: start the processes "
            "with `bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR` (or tools/slurm_test.sh)"
        )
    seconds = _set_timeout(config)
    if torch.cuda.is_available():
        _check_gpus(launcher)
    if get_device() != "cpu":
        return
    if launcher != "pytorch":
        raise ValueError(
            f"--launcher {launcher} needs GPUs and none is visible; on CPUs use `mmkdprune train CONFIG --gpus NUMBER`"
        )
    if not torch_dist.is_initialized():
        torch_dist.init_process_group("gloo", timeout=timedelta(seconds=seconds))
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


def _set_timeout(config: Config) -> float:
    """Give the config a timeout if it has none, and return it in seconds."""
    if config.get("env_cfg") is None:
        config.env_cfg = {}
    if config.env_cfg.get("dist_cfg") is None:
        config.env_cfg.dist_cfg = {"backend": "nccl"}  # what MMEngine takes without the field
    settings = config.env_cfg.dist_cfg
    seconds = settings.timeout = TIMEOUT if settings.get("timeout") is None else settings.timeout
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 < seconds < math.inf:
        raise ValueError(
            f"env_cfg.dist_cfg.timeout must be a positive number of seconds, got {seconds!r}: a process that waits "
            "longer for another one gives up"
        )
    return seconds


def explain_timeout(error: BaseException, config: Config | None) -> str | None:
    """Say what happened when a process waited too long for another one, or lost it; None for any other error."""
    text = str(error).lower()
    if config is None or not torch_dist.is_available() or not torch_dist.is_initialized():
        return None
    if not isinstance(error, RuntimeError):
        return None
    if "timed out" in text or "timeout" in text:
        seconds = config.env_cfg.dist_cfg.timeout
        return (
            f"no answer from another process for {seconds:g} seconds: it hangs or is stopped, so this one ends, too. "
            "If a process may take so long (to read data, to evaluate), set env_cfg.dist_cfg.timeout to more seconds"
        )
    if "connection closed by peer" in text or "connection reset by peer" in text:
        return "another process has ended, so this one ends, too; see what that one has printed"
    return None


def leave_finished_process() -> None:
    """End a process of a gloo group whose work is done, without tearing the interpreter down.

    Whoever drops the last reference to the group, such as DDP's reducer, waits for gloo's thread while it holds
    Python's lock, and that thread may need the lock to drop a tensor: the process then hangs, or aborts with "terminate
    called without an active exception", about one time in ten, so that a finished run looks like a failed one.
    Processes without gloo go on to their ordinary end.
    """
    if torch_dist.is_initialized() and torch_dist.get_backend() == "gloo":
        torch_dist.barrier()  # no rank leaves while another one still saves
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _check_gpus(launcher: str) -> None:
    """Refuse a process for which there is no GPU; CUDA itself only says ``invalid device ordinal``."""
    rank_variable, size_variable = _LOCAL_VARIABLES[launcher]
    local_rank, found = int(os.environ.get(rank_variable, "0")), torch.cuda.device_count()
    if local_rank < found:
        return
    size = os.environ.get(size_variable)
    asked = f"{size} processes were started" if size else f"{local_rank + 1} or more processes were started"
    gpus = f"{found} GPU is" if found == 1 else f"{found} GPUs are"
    advice = f"start at most {found}" + (
        ', or set CUDA_VISIBLE_DEVICES="" to use CPUs' if launcher == "pytorch" else ""
    )
    raise ValueError(
        f"--launcher {launcher}: {asked} on this machine and {gpus} visible, none for the process with "
        f"{rank_variable}={local_rank}: {advice}"
    )
