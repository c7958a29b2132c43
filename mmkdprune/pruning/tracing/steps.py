"""One operator of a forward pass as it is noted, to be compared with the same operator of another pass."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..forward import flat
from .labels import Flow, vector
from .operators import NEW, REGROUPINGS, SIZED
from .watcher import Call

# Elements are compared by two sums of each channel with these frequencies, so that little is kept.
_FREQUENCIES = (0.7390851332151607, 1.9455903509221046)
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


def step_of(
    call: Call, layer: str, read: list[Tensor], results: list[tuple[Tensor, Flow | None, bool]], values: bool
) -> Step:
    """Note one operator."""
    compared = values and call.name not in _UNSET and call.name not in REGROUPINGS
    seen = []
    for tensor, flow, depends in results:
        dim = next(iter(flow.varying()), None) if flow is not None else None
        labels = vector(flow.labels, dim) if flow is not None and dim is not None else None
        if labels is None and flow is not None and flow.labels.numel():
            labels = flow.labels.flatten()[:1]
        summary = summary_of(tensor, dim) if compared else None
        seen.append(Seen(tensor.shape, dim, labels, depends, summary))
    return Step(call.name, numbers_of(call), layer, read, seen)


def summary_of(value: Tensor, dim: int | None) -> Tensor:
    """Sums by which a result is compared, (C, 3) for its channels along ``dim``, or (1, 3)."""
    if value.is_sparse or value.is_quantized or value.is_nested or value.layout != torch.strided:
        return torch.zeros((1, 3), dtype=torch.float64)
    value = value.detach()
    if value.is_complex():
        value = torch.view_as_real(value.resolve_conj())
    if not value.numel():
        return torch.zeros((1 if dim is None else value.shape[dim], 3), dtype=torch.float64)
    # (images, channels, places): of the usual layout a view, since to copy every map costs more than the sums.
    if dim is None:
        rows = value.reshape(1, 1, -1)
    elif dim == 1:
        rows = value.reshape(len(value), value.shape[1], -1)
    else:
        rows = value.movedim(dim, 0).reshape(1, value.shape[dim], -1)
    rows = rows.double()
    number = rows.shape[0] * rows.shape[2]
    patterns = _patterns(number, str(rows.device)).view(rows.shape[0], rows.shape[2], -1)
    sums = torch.cat(((rows @ patterns).sum(0), rows.abs().sum((0, 2))[:, None]), 1)
    return (sums / number).cpu()


@lru_cache(maxsize=64)
def _patterns(size: int, device: str) -> Tensor:
    places = torch.arange(size, dtype=torch.float64)
    return torch.stack([torch.cos(places * frequency + 0.3) for frequency in _FREQUENCIES], 1).to(device)


def numbers_of(call: Call) -> tuple[float, ...]:
    """Numbers among an operator's arguments that must not depend on widths."""
    if call.name in SIZED or call.name in NEW:
        return ()
    return tuple(float(value) for value in flat([call.args, call.kwargs]) if isinstance(value, (bool, int, float)))
