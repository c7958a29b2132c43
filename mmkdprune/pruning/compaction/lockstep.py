"""Run a compact network step by step beside the pruned one: every operator computes the same, on the channels kept.

Outputs alone may hide a difference (behind an ``argmax``, a saturated sigmoid); what they are computed from does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..tracing.labels import Flow, flat, vector
from ..tracing.operators import NEW, RANDOM, REGROUPINGS, SIZED, base_name, bound

# Elements are compared by two sums of each channel with these frequencies, so that little is kept.
_FREQUENCIES = (0.7390851332151607, 1.9455903509221046)
# In training mode: by how much one step may magnify a difference, and how far it may grow before numbers mean nothing.
# BatchNorms magnify rounding up to 300 times each where a channel hardly varies over the batch.
_GROWTH, _MOST = 1e3, 0.1
_UNSET = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize"}


@dataclass
class Seen:
    """A result of an operator.

    Attributes:
        shape: Its shape.
        dim: Dimension along which it has channels; None if it has none.
        labels: Their labels, int64, (C,).
        depends: Whether it depends on the image.
        summary: Sums for comparison, (C, 3) or (1, 3); None if it is not to be compared.
    """

    shape: torch.Size
    dim: int | None
    labels: Tensor | None
    depends: bool
    summary: Tensor | None


@dataclass
class Step:
    """One operator of a forward pass.

    Attributes:
        name: Operator.
        numbers: Numbers among its arguments that must not depend on widths.
        layer: The layer whose parameters it uses, or that was used last.
        read: Labels of the tensors that went in.
        results: What came out.
    """

    name: str
    numbers: tuple[float, ...]
    layer: str
    read: list[Tensor]
    results: list[Seen]

    def labels(self) -> list[Tensor]:
        """All labels that it touches."""
        return [*self.read, *(seen.labels for seen in self.results if seen.labels is not None)]


@dataclass
class Fault:
    """The first step at which two networks differ.

    Attributes:
        index: Number of the step.
        reason: The difference, in words.
    """

    index: int
    reason: str


def step_of(
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    layer: str,
    read: list[Tensor],
    results: list[tuple[Tensor, Flow | None, bool]],
    values: bool,
) -> Step:
    """Note one operator."""
    seen = []
    for tensor, flow, depends in results:
        dim = next(iter(flow.varying()), None) if flow is not None else None
        labels = vector(flow.labels, dim) if flow is not None and dim is not None else None
        if labels is None and flow is not None and flow.labels.numel():
            labels = flow.labels.flatten()[:1]
        summary = summary_of(tensor, dim) if values and name not in _UNSET and name not in REGROUPINGS else None
        seen.append(Seen(tensor.shape, dim, labels, depends, summary))
    return Step(name, numbers_of(name, args, kwargs), layer, read, seen)


class Lockstep(TorchDispatchMode):
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

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, then compare what came out."""
        args, kwargs = bound(func, args, kwargs or {})
        out = func(*args, **kwargs)
        if self.fault is None:
            self._compare(base_name(func), args, kwargs, [value for value in flat(out) if isinstance(value, Tensor)])
        self._index += 1
        return out

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

    def _compare(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], results: list[Tensor]) -> None:
        if self._index >= len(self._steps):
            self._set(f"without them an operator {name} more is used, so the code behind counts on their number")
            return
        step = self._steps[self._index]
        if name != step.name or len(results) != len(step.results):
            self._set(f"without them operator {name} takes the place of {step.name} behind {step.layer}")
            return
        numbers = numbers_of(name, args, kwargs)
        if len(numbers) != len(step.numbers) or any(
            not _close(*pair) for pair in zip(numbers, step.numbers, strict=True)
        ):
            before, after = (", ".join(f"{one:g}" for one in values) for values in (step.numbers, numbers))
            self._set(
                f"the code behind {step.layer} counts on their number: operator {name} gets {after} in place of "
                f"{before}"
            )
            return
        for value, seen in zip(results, step.results, strict=True):
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


def summary_of(value: Tensor, dim: int | None) -> Tensor:
    """Sums by which a result is compared, (C, 3) for its channels along ``dim``, or (1, 3)."""
    if value.is_sparse or value.is_quantized or value.is_nested or value.layout != torch.strided:
        return torch.zeros((1, 3), dtype=torch.float64)
    value = value.detach()
    if value.is_complex():
        value = torch.view_as_real(value.resolve_conj())
    if not value.numel():
        return torch.zeros((1 if dim is None else value.shape[dim], 3), dtype=torch.float64)
    rows = value.movedim(dim, 0).reshape(value.shape[dim], -1) if dim is not None else value.reshape(1, -1)
    rows = rows.double()
    patterns = _patterns(rows.shape[1], str(rows.device))
    sums = torch.cat((rows @ patterns, torch.linalg.vector_norm(rows, 1, 1, keepdim=True)), 1) / rows.shape[1]
    return sums.cpu()


@lru_cache(maxsize=64)
def _patterns(size: int, device: str) -> Tensor:
    places = torch.arange(size, dtype=torch.float64)
    return torch.stack([torch.cos(places * frequency + 0.3) for frequency in _FREQUENCIES], 1).to(device)


def numbers_of(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[float, ...]:
    """Numbers among an operator's arguments that must not depend on widths."""
    if name in SIZED or name in NEW:
        return ()
    return tuple(float(value) for value in flat([args, kwargs]) if isinstance(value, (bool, int, float)))


def _close(first: float, second: float) -> bool:
    return first == second or (first != first and second != second) or abs(first - second) <= 1e-9 * abs(second)
