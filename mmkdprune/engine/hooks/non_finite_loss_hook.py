"""Stop a run whose losses are not finite numbers any more."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor

from mmkdprune.arguments import check_count, checked
from mmkdprune.registry import HOOKS

from .conditions import logs_after_iter, saves_after_iter

READ_EVERY = 10
# Halved so often, a loss scale is some 1e-15 of what it was: no run recovers from that.
SKIPPED_LIMIT = 50


class NonFiniteLossError(RuntimeError):
    """The losses of several iterations in a row were infinite or not a number."""


class _Iteration(NamedTuple):
    number: int  # 1 for the first
    names: list[str]
    values: list[Tensor]


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Stop when the losses of several iterations in a row are infinite or NaN.

    Every runner has one. A network whose weights are NaN trains to the end like any other, and everything that is made
    of it is worthless. The losses stay on the device until they are read: every 10 iterations, when the ``LoggerHook``
    logs, before a checkpoint is saved, and at the end of an epoch. In several processes all stop together.

    Steps that a loss scaler skips (``AmpOptimWrapper`` in float16) leave the weights alone and do not count; but a run
    in which 50 in a row are skipped with such losses learns nothing more, and stops as well.

    Args:
        limit (int): Iterations in a row, in any of the processes. Defaults to 3.

    Raises:
        ValueError: If the limit is not a positive integer.
    """

    # After the losses were logged (BELOW_NORMAL, 60), before they are part of a checkpoint (VERY_LOW, 90).
    priority = "LOW"

    @checked
    def __init__(self, limit: int = 3) -> None:
        check_count("NonFiniteLossHook.limit", limit, 1)
        self.limit = limit
        self._waiting: list[_Iteration] = []
        self._skips: list[Tensor] = []  # by iteration, whether the scaler skipped the step that it belongs to
        self._found: Tensor | None = None  # of the latest step: not 0 if its gradients were not finite
        self._has_scaler = False
        self._bad: list[tuple[int, list[str]]] = []  # the present series that counts,
        self._skipped = 0  # and how many steps in a row were skipped

    def before_train(self, runner: Runner) -> None:
        """Listen to the loss scalers, which forget what they have found after every step."""
        self._waiting, self._skips, self._bad, self._skipped = [], [], [], 0
        for wrapper in _wrappers(runner.optim_wrapper):
            scaler = getattr(wrapper, "loss_scaler", None)
            if scaler is not None and scaler.is_enabled():
                self._has_scaler = True
                self._listen(scaler, wrapper.optimizer)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Keep the losses of this iteration; read them when it is time."""
        losses = {
            name: value.detach()
            for name, value in (outputs.items() if isinstance(outputs, dict) else ())
            if "loss" in name and isinstance(value, Tensor) and value.numel() == 1
        }
        if losses:
            self._waiting.append(_Iteration(runner.iter + 1, list(losses), list(losses.values())))
        if self._found is not None:  # with gradient accumulation, all iterations since the step before
            self._skips += [self._found] * (len(self._waiting) - len(self._skips))
            self._found = None
        due = (runner.iter + 1) % READ_EVERY == 0 or self.end_of_epoch(runner.train_dataloader, batch_idx)
        if due or any(
            logs_after_iter(hook, runner, batch_idx) or saves_after_iter(hook, runner) for hook in runner.hooks
        ):
            self._read(runner)

    def after_train(self, runner: Runner) -> None:
        """Say so where a run ends before enough iterations were bad."""
        self._read(runner, is_end=True)
        if self._bad:
            runner.logger.error(f"{self._describe()}: the weights that were saved last may not be finite.")

    def _listen(self, scaler: Any, optimizer: torch.optim.Optimizer) -> None:
        if hasattr(scaler, "_mmkdprune_update"):
            return
        original = scaler._mmkdprune_update = scaler.update

        def update(*args: Any, **kwargs: Any) -> Any:
            for value in scaler._found_inf_per_device(optimizer).values():
                self._found = value if self._found is None else self._found + value.to(self._found.device)
            return original(*args, **kwargs)

        scaler.update = update

    def _read(self, runner: Runner, is_end: bool = False) -> None:
        """Look at all iterations whose step has been taken, with one transfer from the device."""
        number = len(self._skips) if self._has_scaler and not is_end else len(self._waiting)
        rows, self._waiting = self._waiting[:number], self._waiting[number:]
        skips, self._skips = self._skips[:number], self._skips[number:]
        if not rows:
            return
        device = rows[0].values[0].device
        bad = ~torch.isfinite(torch.cat([value.reshape(1).to(device) for row in rows for value in row.values]))
        anywhere = torch.stack([part.any() for part in bad.split([len(row.values) for row in rows])])
        skipped = torch.zeros_like(anywhere)
        if skips:
            skipped[: len(skips)] = torch.cat([skip.reshape(1).to(device) for skip in skips]) > 0
        shared = torch.cat([anywhere, skipped]).int()
        all_reduce(shared, op="max")  # all processes stop, or none
        flags = torch.cat([bad.int(), shared]).tolist()
        terms, anywhere_flags, skipped_flags = flags[: len(bad)], flags[len(bad) : -number], flags[-number:]
        for row, is_bad, is_skipped in zip(rows, anywhere_flags, skipped_flags, strict=True):
            own, terms = terms[: len(row.names)], terms[len(row.names) :]
            names = [name for name, flag in zip(row.names, own, strict=True) if flag]
            self._count(row.number, names, bool(is_bad), bool(is_skipped))
            if len(self._bad) == self.limit or self._skipped == SKIPPED_LIMIT:
                raise NonFiniteLossError(self._message())

    def _count(self, iteration: int, names: list[str], is_bad: bool, is_skipped: bool) -> None:
        if is_bad and is_skipped:
            self._skipped += 1
        elif is_bad:
            self._bad.append((iteration, names))
        else:
            self._bad, self._skipped = [], 0

    def _describe(self) -> str:
        numbers = [str(iteration) for iteration, _ in self._bad]
        first = self._bad[0][1]  # after a step with NaN all terms are
        return (
            f"the losses of iteration{'s' if len(numbers) > 1 else ''} {', '.join(numbers)} are not finite "
            f"(at first {', '.join(first) if first else 'in another process'})"
        )

    def _message(self) -> str:
        if len(self._bad) < self.limit:
            return (
                f"the loss scaler has skipped {SKIPPED_LIMIT} steps in a row whose losses were not finite, so that "
                "nothing is learnt any more: train without mixed precision or in bfloat16, or lower the learning rate"
            )
        return (
            f"{self._describe()}, {self.limit} in a row: the weights are lost, and the run is stopped. Lower the "
            "learning rate (optim_wrapper.optimizer.lr), warm it up or clip gradients (optim_wrapper.clip_grad), check "
            f"the data for such values, and start again, or resume from a checkpoint from before iteration "
            f"{self._bad[0][0]} (--resume CHECKPOINT)"
        )


def _wrappers(optim_wrapper: Any) -> Iterable[Any]:
    return optim_wrapper.values() if isinstance(optim_wrapper, OptimWrapperDict) else [optim_wrapper]
