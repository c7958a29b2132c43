"""Run a compact network step by step beside the pruned one: every operator computes the same, on the channels kept.

Outputs alone may hide a difference (behind an ``argmax``, a saturated sigmoid); what they are computed from does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..tracing.operators import RANDOM
from ..tracing.steps import Seen, Step, numbers_of, summary_of
from ..tracing.watcher import Call, Watcher

# In training mode: by how much one step may magnify a difference, and how far it may grow before numbers mean nothing.
# BatchNorms magnify rounding up to 300 times each where a channel hardly varies over the batch.
_GROWTH, _MOST = 1e3, 0.1


@dataclass
class Fault:
    """The first step at which two networks differ.

    Attributes:
        index: Number of the step.
        reason: The difference, in words.
    """

    index: int
    reason: str


class Lockstep(Watcher):
    """Watches the forward pass of a compact network and compares it with the steps of the pruned one.

    Args:
        steps (Sequence[Step]): Those of the pruned network.
        stays (Callable): ``stays(labels) -> bool tensor``: which channels were kept.
        tolerance (float): Largest relative difference that passes.
        lenient (bool): For training mode. Values are no longer compared once random numbers of another shape were
            drawn, and a difference passes that grew from step to step, as rounding does behind BatchNorms on few
            values.
    """

    def __init__(
        self, steps: Sequence[Step], stays: Callable[[Tensor], Tensor], tolerance: float, lenient: bool
    ) -> None:
        super().__init__()
        self.fault: Fault | None = None
        self.scale = 0.0  # of the largest tensor that was compared
        self._worst = 0.0
        self._steps, self._stays, self._tolerance, self._lenient = steps, stays, tolerance, lenient
        self._index = 0
        self.values = True

    def watch(self, call: Call) -> None:
        """Run the operator, then compare what came out."""
        call.run()
        if self.fault is None:
            self._compare(call)
        self._index += 1

    def failed(self, error: Exception) -> Fault:
        """The fault when the network raised an error."""
        if self.fault is None:
            step = self._steps[min(self._index, len(self._steps) - 1)] if self._steps else None
            where = f" at operator {step.name} behind {step.layer}" if step is not None else ""
            self._set(
                f"without them the forward pass fails{where} ({type(error).__name__}: {str(error)[:200]}), so its code "
                "must count on their number"
            )
        assert self.fault is not None
        return self.fault

    def finish(self) -> Fault | None:
        """The fault, if there is one, when the network returned."""
        if self.fault is None and self._index < len(self._steps):
            step = self._steps[self._index]
            self._set(f"without them operator {step.name} behind {step.layer} is not reached")
        return self.fault

    def _set(self, reason: str) -> None:
        self.fault = Fault(self._index, reason)

    def _compare(self, call: Call) -> None:
        name = call.name
        if self._index >= len(self._steps):
            self._set(f"without them an operator {name} more is used, so the code behind counts on their number")
            return
        step = self._steps[self._index]
        if name != step.name or len(call.results) != len(step.results):
            self._set(f"without them operator {name} takes the place of {step.name} behind {step.layer}")
            return
        numbers = numbers_of(call)
        if len(numbers) != len(step.numbers) or any(
            not _close(*pair) for pair in zip(numbers, step.numbers, strict=True)
        ):
            before, after = (", ".join(f"{one:g}" for one in values) for values in (step.numbers, numbers))
            self._set(
                f"the code behind {step.layer} counts on their number: operator {name} gets {after} in place of "
                f"{before}"
            )
            return
        for value, seen in zip(call.results, step.results, strict=True):
            self._compare_result(step, value, seen)

    def _compare_result(self, step: Step, value: Tensor, seen: Seen) -> None:
        stays = self._stays(seen.labels) if seen.labels is not None else None
        shape = list(seen.shape)
        if stays is not None and seen.dim is not None:
            shape[seen.dim] = int(stays.sum())
        if shape != list(seen.shape) and step.name in RANDOM and self._lenient:
            self.values = False
        if list(value.shape) != shape:
            if seen.depends or seen.shape.numel() == 1:
                self._set(
                    f"without them operator {step.name} behind {step.layer} gives shape {tuple(value.shape)} in place "
                    f"of {tuple(shape)}"
                )
            return
        if seen.summary is None or not self.values:
            return
        found, expected = summary_of(value, seen.dim), seen.summary
        if stays is not None and seen.dim is not None:
            expected = expected[stays.to(expected.device)]
        error = self._difference(expected, found)
        if not error <= self.allowed(self._tolerance):
            if self._lenient and error <= _GROWTH * self._worst:
                self.values = False  # rounding, magnified step by step: only sizes and numbers are compared from here
                return
            self._set(
                f"without them operator {step.name} behind {step.layer} gives something else (relative difference "
                f"{error:.2g}); the first layer that differs is {step.layer}"
            )
        self._worst = max(self._worst, error)

    def allowed(self, tolerance: float) -> float:
        """Tolerance after what was seen so far; channels that are missing make a difference at once."""
        return max(tolerance, min(_GROWTH * self._worst, _MOST)) if self._lenient else tolerance

    def _difference(self, expected: Tensor, found: Tensor) -> float:
        if expected.shape != found.shape:
            return float("inf")
        if not expected.numel():
            return 0.0
        largest = float((expected - found).abs().max())
        if not math.isfinite(largest):
            if not torch.equal(expected.isfinite(), found.isfinite()):
                return float("inf")
            expected, found = (one.nan_to_num(0.0, 0.0, 0.0) for one in (expected, found))
            largest = float((expected - found).abs().max())
        scale = float(expected[:, 2].max())
        self.scale = max(self.scale, scale)
        return largest / max(scale, 1e-6 * self.scale, 1e-300)


def _close(first: float, second: float) -> bool:
    return first == second or (first != first and second != second) or abs(first - second) <= 1e-9 * abs(second)
