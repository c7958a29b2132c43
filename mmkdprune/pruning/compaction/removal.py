"""Decide which channels go: those that are zero wherever they are used, as far as the layers' shapes allow."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..tracing.channel_record import Dim, FlowRecord


class CompactionError(ValueError):
    """A network cannot be compacted, or not exactly; the message names the layer and what to do."""


@dataclass
class Removal:
    """What goes and what stays.

    Attributes:
        kept: Sorted indices that stay along every dimension that shrinks.
        sizes: Number of channels along every dimension before.
        left: Zero filters that stay: their number and the reason, by layer.
        constants: Those of them of which something else than zero is made, likewise.
        gone: For every label, whether its channel goes, bool.
    """

    kept: dict[Dim, np.ndarray] = field(default_factory=dict)
    sizes: dict[Dim, int] = field(default_factory=dict)
    left: dict[str, tuple[int, str]] = field(default_factory=dict)
    constants: dict[str, tuple[int, str]] = field(default_factory=dict)
    gone: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))

    def stays(self, labels: Tensor) -> Tensor:
        """Whether channels stay, bool, of the labels' shape."""
        return torch.from_numpy(~self.gone[labels.numpy()])


class ChannelClasses:
    """Channels that can only go together (in one layer or in several) are one class.

    Args:
        record (FlowRecord): What is known of the channels.
    """

    def __init__(self, record: FlowRecord) -> None:
        pairs = [(_array(first), _array(second)) for first, second in record.ties]
        self._of = _components(record.number, pairs)
        self.record = record
        self.dims = {dim: self._of[_array(labels)] for dim, labels in record.dims.items()}
        self.parts = [[self._of[_array(part)] for part in parts] for parts in record.parts]
        self.pinned = self.noted(record.pinned)
        self.shifted = self.noted(record.shifted)

    def of(self, labels: Tensor) -> np.ndarray:
        """Classes of labels."""
        return self._of[_array(labels)]

    def flags(self) -> np.ndarray:
        """One False for every class."""
        return np.zeros(self.record.number, dtype=bool)

    def noted(self, notes: list[tuple[Tensor, str]]) -> dict[int, str]:
        """First reason that was noted for every class."""
        reasons: dict[int, str] = {}
        for labels, reason in notes:
            for one in np.unique(self.of(labels)).tolist():
                reasons.setdefault(one, reason)
        return reasons


def find_removal(record: FlowRecord, divisor: int = 1) -> Removal:
    """Choose the channels that go.

    A class of channels goes when it is zero at every layer that reads it. Layers keep at least one channel, groups of a
    grouped convolution stay equally large, and the numbers that stay are rounded up to multiples of ``divisor`` by
    keeping some zero channels.

    Args:
        record: What is known of the channels.
        divisor: As for :func:`~mmkdprune.pruning.compact`.

    Returns:
        Removal: What goes and what stays.

    """
    classes = ChannelClasses(record)
    candidates = removable(classes)
    constants = _constants(classes, _alive(classes))
    gone = take_back_for_shape(classes, candidates, divisor)
    removal = Removal(sizes={dim: len(labels) for dim, labels in classes.dims.items()})
    removal.gone = gone[classes.of(torch.arange(record.number))]
    for dim, labels in classes.dims.items():
        if gone[labels].any():
            removal.kept[dim] = np.flatnonzero(~gone[labels])
    for layer, zero in record.zero_filters.items():
        labels = classes.dims[Dim(layer, "out")]
        stay = labels[_array(zero) & ~gone[labels]]
        if len(stay):
            removal.left[layer] = (len(stay), _why_left(classes, int(stay[0]), candidates, layer))
        wrong = [one for one in stay.tolist() if one in constants]
        if wrong:
            removal.constants[layer] = (len(wrong), constants[wrong[0]])
    return removal


def removable(classes: ChannelClasses) -> np.ndarray:
    """Tell which classes of channels are zero at every layer that reads them, and free to go; bool.

    Args:
        classes: Of a pass in which they were followed.
    """
    used = classes.flags()
    for use in classes.record.uses:
        used[classes.of(use.labels)] = True
    free = used & ~_alive(classes)
    free[list(classes.pinned)] = False
    return free


def _alive(classes: ChannelClasses) -> np.ndarray:
    """Classes that some layer reads, and that are not zero there."""
    alive = classes.flags()
    for use in classes.record.uses:
        alive[classes.of(use.labels)[~_array(use.zero)]] = True
    return alive


def _constants(classes: ChannelClasses, alive: np.ndarray) -> dict[int, str]:
    """Classes all of whose filters are zero, but of whose zeros a constant is made, with the reason."""
    producing, silent = classes.flags(), ~classes.flags()
    refused = classes.noted(classes.record.refused)
    for layer, zero in classes.record.zero_filters.items():
        if layer in classes.record.followers:
            continue
        labels = classes.dims[Dim(layer, "out")]
        producing[labels] = True
        silent[labels[~_array(zero)]] = False
    blamed = producing & silent & alive
    return {one: reason for one, reason in refused.items() if blamed[one] and one not in classes.pinned}


def _why_left(classes: ChannelClasses, one: int, candidates: np.ndarray, layer: str) -> str:
    if one in classes.pinned:
        return classes.pinned[one]
    if candidates[one]:
        return "kept to round up, or to keep the groups of a grouped convolution equally large"
    for other, zero in classes.record.zero_filters.items():
        labels = classes.dims[Dim(other, "out")]
        if other != layer and (labels[~_array(zero)] == one).any():
            return f"the same channels come from {other}, too, where they are not zero"
    return classes.shifted.get(one, "nothing reads them")


def take_back_for_shape(classes: ChannelClasses, candidates: np.ndarray, divisor: int) -> np.ndarray:
    """Take classes back until every layer has a shape that exists; returns what goes, bool.

    Args:
        classes: Channels that go together.
        candidates: Classes that may go, bool.
        divisor: As for :func:`find_removal`.
    """
    gone = candidates.copy()
    changed = True
    while changed:
        changed = False
        for parts in classes.parts:
            counts = [int(gone[part].sum()) for part in parts]
            target = min(min(counts), min(map(len, parts)) - 1)
            for part, count in zip(parts, counts, strict=True):
                changed |= _take_back(gone, part, count - target)
        for dim, labels in classes.dims.items():
            count = int(gone[labels].sum())
            kept = len(labels) - count
            if kept == 0:
                changed |= _take_back(gone, labels, 1)
            elif dim.side == "out" and dim.layer in classes.record.zero_filters and count and kept % divisor:
                changed |= _take_back(gone, labels, min(count, divisor - kept % divisor))
    return gone


def _take_back(gone: np.ndarray, labels: np.ndarray, number: int) -> bool:
    """Keep ``number`` more of these channels; the last ones, as good as any."""
    if number <= 0:
        return False
    gone[labels[gone[labels]][-number:]] = False
    return True


def _components(number: int, pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Smallest label of the connected component of every label."""
    smallest = np.arange(number)
    if not pairs:
        return smallest
    first, second = (np.concatenate(side) for side in zip(*pairs, strict=True))
    while True:
        before = smallest.copy()
        low = np.minimum(smallest[first], smallest[second])
        np.minimum.at(smallest, first, low)
        np.minimum.at(smallest, second, low)
        smallest = smallest[smallest]
        if np.array_equal(before, smallest):
            return smallest


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.numpy()
