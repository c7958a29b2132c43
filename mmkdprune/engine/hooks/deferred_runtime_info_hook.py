"""Log losses without waiting for the device at every step."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.hooks import RuntimeInfoHook
from mmengine.runner import Runner
from torch import Tensor

from mmkdprune.registry import HOOKS

from .conditions import logs_after_iter, saves_after_iter


@HOOKS.register_module()
class DeferredRuntimeInfoHook(RuntimeInfoHook):
    """Read the training losses when they are logged, instead of at every iteration.

    MMEngine's own hook turns each loss into a Python number at every step, so that the host waits for the device as
    often as there are terms. This one keeps the tensors, and reads all of them in one go when the ``LoggerHook`` logs,
    a ``CheckpointHook`` saves or the epoch ends. The logs are the same. Replace MMEngine's with
    ``default_hooks = dict(runtime_info=dict(type='mmkdprune.DeferredRuntimeInfoHook'))``.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[str, Any]] = []

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Keep the losses of this step; read them when they are needed."""
        for name, value in (outputs or {}).items():
            self._waiting.append((f"train/{name}", value.detach() if isinstance(value, Tensor) else value))
        if any(logs_after_iter(hook, runner, batch_idx) or saves_after_iter(hook, runner) for hook in runner.hooks):
            self._read(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Leave nothing unread behind."""
        self._read(runner)

    def _read(self, runner: Runner) -> None:
        waiting, self._waiting = self._waiting, []
        for (name, _), number in zip(waiting, _numbers([value for _, value in waiting]), strict=True):
            runner.message_hub.update_scalar(name, number)


def _numbers(values: Sequence[Any]) -> list[Any]:
    """Turn tensors of one element into numbers with a single transfer from each device; pass anything else through."""
    numbers = list(values)
    tensors = [index for index, value in enumerate(values) if isinstance(value, Tensor)]
    for device in {values[index].device for index in tensors}:
        chosen = [index for index in tensors if values[index].device == device]
        stacked = torch.stack([values[index].reshape(()) for index in chosen])
        for index, number in zip(chosen, stacked.tolist(), strict=True):
            numbers[index] = number
    return numbers
