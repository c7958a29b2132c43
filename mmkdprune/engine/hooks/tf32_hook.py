"""Compute float32 matrix products and convolutions in TF32."""

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkdprune.registry import HOOKS


@HOOKS.register_module()
class TF32Hook(Hook):
    """Let GPUs from compute capability 8.0 on take their tensor cores for float32, for the time of the run.

    TF32 keeps the range of float32 and 10 bits of its mantissa. Convolutions have it by default in PyTorch, matrix
    products do not. Elsewhere the hook changes nothing.
    """

    priority = "VERY_HIGH"

    def __init__(self) -> None:
        self._before: tuple[str, bool] | None = None

    def before_run(self, runner: Runner) -> None:
        """Turn it on."""
        if not torch.cuda.is_available():
            return
        try:
            before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        except RuntimeError:  # PyTorch's newer settings are in use, and do not go together with these
            runner.logger.info("TF32Hook leaves torch.backends' fp32_precision as it was set.")
            return
        self._before = before
        self._set("high", True)

    def after_run(self, runner: Runner) -> None:
        """Leave the process as it was."""
        before, self._before = self._before, None
        if before is not None:
            self._set(*before)

    @staticmethod
    def _set(matmul: Any, convolution: bool) -> None:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolution
