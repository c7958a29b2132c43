"""State of following channels through a forward pass: the flow of every tensor, and what is noted about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from .channel_record import Dim, FlowRecord
from .labels import Flow, Unfinished
from .operators import GROUP_NORMS
from .ownership import Owner
from .watcher import Call, Follower


class FlowState(Follower[Flow]):
    """Flows of tensors and notes on channels.

    Args:
        network (nn.Module): Whose parameters are met.
        record (FlowRecord): Takes what is learned.
    """

    def __init__(self, network: nn.Module, record: FlowRecord) -> None:
        super().__init__(network)
        self.record = record
        self.readers: dict[str, list[str]] = {}
        self._transposed: Any = WeakIdKeyDictionary()

    def labels(self, owner: Owner, side: str, size: int) -> Tensor:
        """Labels along a dimension of a layer; those that cannot shrink are pinned."""
        new = Dim(owner.name, side) not in self.record.dims
        labels = self.record.labels(Dim(owner.name, side), size)
        if new and owner.fixed:
            self.record.pin(labels, owner.fixed)
        return labels

    def known(self, value: Any) -> Flow | None:
        """The flow of a tensor; None if there is none, or it was lost."""
        state = super().known(value)
        if isinstance(state, Unfinished):
            self.record.pin(state.labels[state.labels >= 0], "they are a part of a tensor of fixed size")
            self.set(value, None)
            return None
        return state

    def operand(self, value: Any) -> Flow | None:
        """The flow of a tensor, or of a bias or scale of one value per channel."""
        if not isinstance(value, Tensor):
            return None
        return self.known(value) if value in self.states else self.parameter(value)

    def parameter(self, value: Tensor) -> Flow | None:
        """Flow of a bias or scale of one value per channel."""
        owner = self.owned.get(value)
        if owner is None or value.ndim != 1 or len(value) == 1:
            return None
        labels = self.labels(owner, "out", len(value))
        if len(labels) != len(value):
            return None
        return Flow.along(labels, (value.detach() == 0).cpu(), 0, value.shape)

    def pin_parameters(self, tensors: Sequence[Any], reason: str) -> None:
        """Keep the size of layers whose weights are used in a way that is not followed."""
        for value in tensors:
            owner = self.owned.get(value) or self._transposed.get(value)
            if owner is None or not value.ndim:
                continue
            for side, size in owner.sizes().items():
                self.record.pin(self.labels(owner, side, size), f"{reason} ({owner.name}.{owner.attribute})")

    def unknown(self, call: Call) -> Flow | None:
        """Keep all that goes into an operator, which takes channels together or regroups them."""
        kind = GROUP_NORMS.get(call.name, f"operator {call.name}")
        self.give_up(call.tensors, f"{kind} takes them together or regroups them")
        return None

    def give_up(self, tensors: Sequence[Any], reason: str) -> None:
        """Keep all channels of some tensors."""
        for value in tensors:
            if (flow := self.known(value)) is not None:
                self.record.pin(flow.labels, reason)
        self.pin_parameters(tensors, reason)

    def read(self, flow: Flow, reader: str = "") -> None:
        """Something other than the same channels again comes of them."""
        if flow.source:
            self.readers.setdefault(flow.source, []).append(reader)

    def note_shift(self, labels: Tensor, reason: str, direct: bool) -> None:
        """Zeros turned into something else; direct if not by chance."""
        if labels.numel():
            self.record.shifted.append((labels.unique(), reason))
            if direct:
                self.record.refused.append((labels.unique(), reason))
