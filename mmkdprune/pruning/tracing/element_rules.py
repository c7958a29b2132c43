"""Rules by which labels and zeros of channels pass through operators on single elements; see :mod:`.channels`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .channel_state import FlowState
from .labels import Flow, compressed
from .operators import ELEMENTWISE, is_zero_at_zero
from .watcher import UNTOUCHED, Call, Untouched


class ElementRules(FlowState):
    """Rules for operators that compute, or overwrite, each element from the elements at the same place."""

    def elementwise(self, call: Call, flow: Flow | None) -> Flow | None:
        """An operator that computes each element from the elements at the same place."""
        name, args, out = call.name, call.args, call.result
        if not isinstance(out, Tensor):
            return self.unknown(call)
        operands = {position: value for position, value in enumerate(args) if isinstance(value, Tensor)}
        known = {position: found for position, value in operands.items() if (found := self.operand(value)) is not None}
        if not known or len(call.tensors) != len(operands) or any(self.is_lost(value) for value in operands.values()):
            return self.unknown(call)
        slope = name in ("prelu", "_prelu_kernel")
        if slope and 1 in known and known[1].ndim == 1 and out.ndim > 1:
            known[1] = Flow.along(*known[1].channels(0), 1, out.shape)
        constants = [value for position, value in operands.items() if position not in known]
        self.pin_parameters(constants, f"operator {name} uses the weights themselves")
        varying = set().union(*(flow.broadcast(out.shape).varying() for flow in known.values()))
        for value in constants:
            aligned = value.reshape((1,) * (out.ndim - value.ndim) + tuple(value.shape))
            if any(aligned.shape[dim] != 1 for dim in varying):
                self.give_up(call.tensors, "a tensor of fixed size meets them")
                return None
        zeros: dict[int, Any] = {
            position: known[position].broadcast(out.shape).zero if position in known else _all_zero(value)
            for position, value in enumerate(args)
        }
        zero = torch.zeros((1,) * out.ndim, dtype=torch.bool).expand(out.shape)
        for needed in ELEMENTWISE[name]:
            both = torch.ones((1,) * out.ndim, dtype=torch.bool).expand(out.shape)
            for position in needed:
                both = both & zeros.get(position, False)
            zero = zero | both
        first = next(iter(known))
        if len(known) == 1:
            flow = known[first]
            if not ELEMENTWISE[name] and bool(flow.zero.any()) and is_zero_at_zero(call.func, args, call.kwargs, first):
                zero = zero | flow.broadcast(out.shape).zero
            before = flow.broadcast(out.shape).zero
            if torch.equal(zero, before) and flow.shape == out.shape:
                return flow
            reason = "a constant is added to zeros" if name in ("add", "sub") else f"{name}(0) is not 0"
            self.note_shift(flow.broadcast(out.shape).labels[before & ~zero], reason, direct=True)
            return Flow(flow.broadcast(out.shape).labels, compressed(zero))
        return self._joined(list(known.values()), zero, out)

    def _joined(self, flows: list[Flow], zero: Tensor, out: Tensor) -> Flow:
        """Channels that meet others are one with them."""
        for flow in flows:
            self.read(flow)
        wide, *others = sorted((flow.broadcast(out.shape) for flow in flows), key=lambda flow: -len(flow.varying()))
        for narrow in others:
            if wide.varying() > narrow.varying():
                # One map for all channels of the other operand.
                self.record.pin(narrow.labels, "they scale or shift all channels of another layer")
            elif wide.varying() != narrow.varying():
                self.record.pin(wide.labels, "they meet others along another dimension")
                self.record.pin(narrow.labels, "they meet others along another dimension")
                zero = torch.zeros_like(zero)
            else:
                self.record.tie(wide.distinct(), narrow.distinct())
        return Flow(wide.labels, compressed(zero))

    def copy(self, call: Call, old: Flow | None) -> Flow | Untouched | None:
        """One tensor is written over another: its channels are those of what is written."""
        (target, source), out = call.args[:2], call.result
        if self.is_lost(source) or self.owned.holds(target):
            self.give_up(call.tensors, "they are copied into a tensor that is kept")
            # A constant that is copied into a parameter or buffer leaves nothing to be followed.
            constant = not self.is_lost(source) and self.operand(source) is None and old is None
            return UNTOUCHED if constant else None
        new = self.operand(source)
        if new is None:
            self.pin_parameters([source], "they are copied")
            if old is None:
                return UNTOUCHED
            aligned = source.reshape((1,) * (out.ndim - source.ndim) + tuple(source.shape))
            if any(aligned.shape[dim] != 1 for dim in old.varying()):
                self.give_up(call.tensors, "a tensor of fixed size is written over them")
                return None
            zero = torch.full((1,) * out.ndim, _all_zero(source), dtype=torch.bool)
            return Flow(old.labels, zero.expand(out.shape))
        self.read(new)
        new = new.broadcast(out.shape)
        if old is not None and old.varying() == new.varying():
            self.record.tie(old.distinct(), new.distinct())
        elif old is not None:
            self.record.pin(old.labels, "others are written over them along another dimension")
            self.record.pin(new.labels, "they are written over others along another dimension")
        return Flow(new.labels, new.zero)


def _all_zero(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not bool(value.any())
    return isinstance(value, (int, float)) and value == 0
