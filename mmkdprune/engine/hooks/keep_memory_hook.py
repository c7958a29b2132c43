"""Keep freed memory in the process while a network is trained on a CPU."""

import ctypes
import sys

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkdprune.registry import HOOKS

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_NEVER = 2**31 - 1
_LARGEST = 32 * 2**20  # the highest threshold that glibc takes, in bytes


def keep_freed_memory() -> bool:
    """Tell glibc not to give freed memory back to the system; for the whole process, and until it ends.

    Returns:
        bool: False where there is no glibc, and nothing was done.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    return bool(set_option(_TRIM_THRESHOLD, _NEVER) and set_option(_MMAP_THRESHOLD, _LARGEST))


@HOOKS.register_module()
class KeepMemoryHook(Hook):
    """Let the memory of one training step serve the next.

    A step frees its gradients and activations; glibc gives large blocks back to the system, and the next step pays for
    getting them again, page by page. On a GPU, where PyTorch keeps memory itself, the hook does nothing.
    """

    priority = "VERY_HIGH"

    def before_run(self, runner: Runner) -> None:
        """Set it before anything large is allocated."""
        if next(runner.model.parameters()).device.type == "cpu" and not keep_freed_memory():
            runner.logger.info("KeepMemoryHook: there is no glibc here, nothing is changed.")
