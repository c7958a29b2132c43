"""Rules by which labels and zeros of channels pass through PyTorch's operators; see :mod:`.channels`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from .channel_record import Use
from .channel_state import FlowState
from .labels import Flow, compressed, index_like, nonzero_kernels, zero_rows, zero_values
from .operators import ELEMENTWISE, is_zero_at_zero
from .ownership import Owner


class FlowRules(FlowState):
    """Rules for single operators, by which flows and notes are made."""

    def convolution(self, flow: Flow | None, args: Sequence[Any], out: Tensor) -> Flow | None:
        """A convolution; its weight may be that of a module, or anything."""
        weight, bias, groups = args[1], args[2], args[8]
        owner = self.owned.get(weight)
        module = owner.module if owner is not None and owner.attribute == "weight" else None
        own_bias = bias is None or (owner is not None and self._belongs(bias, owner, "bias"))
        if not isinstance(module, _ConvNd) or isinstance(module, _ConvTransposeNd) or not own_bias or owner is None:
            kind = "a transposed convolution" if args[6] else "a convolution whose weight or bias is no parameter of it"
            self.give_up(kind, [value for value in args[:3] if isinstance(value, Tensor)], f"{kind} uses them")
            return None
        name = owner.name
        if flow is not None and not flow.is_along(1):
            self.record.pin(flow.labels, f"{name} uses them in another order")
            flow = None
        depthwise = groups == module.in_channels == len(weight) and groups > 1
        made = self.labels(owner, "out", len(weight))
        nonzero = self._nonzero(owner, weight)
        own = zero_rows(nonzero) & zero_values(bias, len(weight))
        rows = own
        if flow is not None:
            labels, zero = flow.channels(1)
            rows = zero_rows(nonzero, zero, groups) & zero_values(bias, len(weight))
            if depthwise:
                self.record.tie(made, labels)
                self.note_shift(labels[zero & ~rows], f"{name} has a bias", direct=True)
            else:
                self._use(owner, labels, zero, groups)
        elif depthwise:
            self.record.pin(made, "where they come from could not be followed")
        else:
            self._pin_inputs(owner, weight.shape[1] * groups)
        if groups > 1 and not depthwise:
            self.record.parts.append(list(made.chunk(groups)))
        self._note_filters(name, own, follows=depthwise)
        return Flow.along(made, rows, 1, out.shape, source=name)

    def linear(self, name: str, args: Sequence[Any], out: Tensor, tensors: list[Tensor]) -> Flow | None:
        """A linear layer, whose weight arrives transposed."""
        bias, inputs, weight = args[:3] if name == "addmm" else (args[2] if len(args) > 2 else None, *args[:2])
        flow = self.flow(inputs)
        owner = self.owned.get(weight) if name == "linear" else self._transposed.get(weight)
        if (
            owner is None
            or not isinstance(owner.module, nn.Linear)
            or not (bias is None or self._belongs(bias, owner, "bias"))
        ):
            return self.give_up(name, tensors)
        filters = owner.module._parameters["weight"]
        assert filters is not None
        nonzero = self._nonzero(owner, filters)
        own = zero_rows(nonzero) & zero_values(bias, len(filters))
        rows = own
        if flow is not None and flow.is_along(inputs.ndim - 1):
            labels, zero = flow.channels(inputs.ndim - 1)
            rows = zero_rows(nonzero, zero) & zero_values(bias, len(filters))
            self._use(owner, labels, zero)
        else:
            if flow is not None:
                self.record.pin(flow.labels, f"{owner.name} uses them in another order")
            self._pin_inputs(owner, filters.shape[1])
        self._note_filters(owner.name, own)
        made = self.labels(owner, "out", len(filters))
        return Flow.along(made, rows, out.ndim - 1, out.shape)

    def batch_norm(self, flow: Flow, args: Sequence[Any], out: Tensor, tensors: list[Tensor]) -> Flow | None:
        """A BatchNorm: zeros become its shift, unless scale and shift are zero."""
        weight, bias = args[1:3]
        mean, variance = args[3:5] if not isinstance(args[3], bool) else (None, None)
        owner = next((self.owned.get(value) for value in (mean, weight) if isinstance(value, Tensor)), None)
        if weight is None and mean is None:  # nothing has one value per channel, and zeros have mean zero
            return flow if flow.is_along(1) else self.give_up("a BatchNorm", tensors)
        if owner is None or not isinstance(owner.module, _BatchNorm) or not flow.is_along(1):
            self.read(flow)
            return self.give_up("a BatchNorm", tensors, "a BatchNorm that is no module uses them")
        name = owner.name
        self.read(flow, name)
        labels, zero = flow.channels(1)
        made = self.labels(owner, "out", len(labels))
        self.record.tie(made, labels)
        silent = torch.zeros_like(zero)
        if weight is not None:
            silent = (weight.detach() == 0).cpu() & zero_values(bias, len(labels))
        if mean is None or args[5] is True:  # the statistics of a batch of zeros
            silent |= zero & zero_values(bias, len(labels))
        else:
            probe = torch.zeros((1, len(labels), 1, 1), dtype=out.dtype, device=out.device)
            at_zero = nn.functional.batch_norm(probe, mean, variance, weight, bias, False, 0.0, args[7])
            silent |= zero & (at_zero.flatten() == 0).cpu()
        shifted = labels[zero & ~silent]
        self.note_shift(shifted, f"BatchNorm {name} turns zeros into a constant (its shift)", bool(flow.source))
        known = self.record.zero_after.get(name)
        self.record.zero_after[name] = silent if known is None else silent & known
        return Flow.along(made, silent, 1, out.shape)

    def elementwise(
        self, name: str, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor, tensors: list[Tensor]
    ) -> Flow | None:
        """An operator that computes each element from the elements at the same place."""
        operands = {position: value for position, value in enumerate(args) if isinstance(value, Tensor)}
        known = {position: found for position, value in operands.items() if (found := self.operand(value)) is not None}
        if not known or len(tensors) != len(operands) or any(self.is_lost(value) for value in operands.values()):
            return self.give_up(name, tensors)
        slope = name in ("prelu", "_prelu_kernel")
        if slope and 1 in known and known[1].ndim == 1 and out.ndim > 1:
            known[1] = Flow.along(*known[1].channels(0), 1, out.shape)
        constants = [value for position, value in operands.items() if position not in known]
        self.pin_parameters(constants, f"operator {name} uses the weights themselves")
        varying = set().union(*(flow.broadcast(out.shape).varying() for flow in known.values()))
        for value in constants:
            aligned = value.reshape((1,) * (out.ndim - value.ndim) + tuple(value.shape))
            if any(aligned.shape[dim] != 1 for dim in varying):
                return self.give_up(name, tensors, "a tensor of fixed size meets them")
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
            if not ELEMENTWISE[name] and bool(flow.zero.any()) and is_zero_at_zero(func, args, kwargs, first):
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

    def copy(self, args: Sequence[Any], out: Tensor, tensors: list[Tensor]) -> Flow | None:
        """One tensor is written over another: its channels are those of what is written."""
        target, source = args[:2]
        if self.is_lost(source) or self.owned.holds(target):
            return self.give_up("copy", tensors, "they are copied into a tensor that is kept")
        old, new = self.flow(target), self.operand(source)
        if new is None:
            self.pin_parameters([source], "they are copied")
            if old is None:
                return None
            aligned = source.reshape((1,) * (out.ndim - source.ndim) + tuple(source.shape))
            if any(aligned.shape[dim] != 1 for dim in old.varying()):
                return self.give_up("copy", tensors, "a tensor of fixed size is written over them")
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

    def concatenation(self, args: Sequence[Any], tensors: list[Tensor], out: Tensor) -> Flow | None:
        """Channels one after the other, or images or places of the same channels."""
        parts, dim = args[0], (args[1] if len(args) > 1 else 0) % out.ndim
        flows = [self.flow(part) for part in parts]
        known = [flow for flow in flows if flow is not None]
        if len(known) != len(parts) or any(flow.ndim != out.ndim for flow in known):
            return self.give_up("cat", tensors)
        for flow in known:
            self.read(flow)
        if dim not in known[0].varying() and all(flow.varying() == known[0].varying() for flow in known):
            for flow in known[1:]:
                self.record.tie(known[0].distinct(), flow.distinct())
        labels = torch.cat([flow.labels for flow in known], dim)
        return Flow(compressed(labels), compressed(torch.cat([flow.zero for flow in known], dim)))

    def reduction(self, name: str, flow: Flow, args: Sequence, kwargs: Mapping[str, Any], out: Tensor) -> Flow | None:
        """A mean or sum over images and places."""
        given = args[1] if len(args) > 1 else kwargs.get("dim")
        dims = {dim % flow.ndim for dim in ([given] if isinstance(given, int) else given or range(flow.ndim))}
        if dims & flow.varying():
            self.record.pin(flow.labels, f"operator {name} takes them together")
            return None
        keep = out.ndim == flow.ndim
        return Flow(index_like(flow.labels, dims, keep), index_like(flow.zero, dims, keep))

    def padding(self, flow: Flow, args: Sequence[Any], out: Tensor) -> Flow | None:
        """Padding of places; that of channels keeps them all."""
        pads = args[1]
        padded = {flow.ndim - 1 - index // 2 for index, pad in enumerate(pads) if pad}
        if padded & flow.varying() or not flow.is_along(1):
            self.record.pin(flow.labels, "channels of a fixed number are padded to them")
            return None
        resized = flow.resized(out.shape)
        if not any(args[2:]):
            return resized
        self.note_shift(flow.labels[flow.zero], "they are padded with a constant", direct=True)
        return resized.without_zeros()

    def _use(self, owner: Owner, labels: Tensor, zero: Tensor, groups: int = 1) -> None:
        read = self.labels(owner, "in", len(labels))
        self.record.tie(read, labels)
        self.record.uses.append(Use(owner.name, read, zero))
        if groups > 1:
            self.record.parts.append(list(read.chunk(groups)))

    def _nonzero(self, owner: Owner, weight: Tensor) -> Tensor:
        """Its nonzero kernels, looked up once until it is written to."""
        key = (f"{owner.name}.{owner.attribute}", -1 if weight.is_inference() else weight._version)
        if key not in self.record.nonzero:
            self.record.nonzero[key] = nonzero_kernels(weight)
        return self.record.nonzero[key]

    def _pin_inputs(self, owner: Owner, size: int) -> None:
        self.record.pin(self.labels(owner, "in", size), "what it reads could not be followed")

    def _note_filters(self, layer: str, zero: Tensor, follows: bool = False) -> None:
        known = self.record.zero_filters.get(layer)
        self.record.zero_filters[layer] = zero if known is None else zero & known
        if follows:
            self.record.followers.add(layer)

    def _belongs(self, value: Tensor, owner: Owner, attribute: str) -> bool:
        other = self.owned.get(value)
        return other is not None and other.module is owner.module and other.attribute == attribute


def _all_zero(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not bool(value.any())
    return isinstance(value, (int, float)) and value == 0
