"""Rules by which labels and zeros of channels pass through PyTorch's operators; see :mod:`.channels`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from .channel_record import Use
from .element_rules import ElementRules
from .labels import Flow, carry, compressed, index_like, nonzero_kernels, zero_rows, zero_values
from .operators import (
    BATCH_NORMS,
    DROPOUTS,
    ELEMENTWISE,
    NEW,
    POOLS,
    RANDOM,
    REDUCTIONS,
    REGROUPINGS,
    SAME_SHAPE,
)
from .ownership import Owner
from .watcher import UNTOUCHED, Call, Untouched


class FlowRules(ElementRules):
    """Rules for single operators, by which flows and notes are made; the table of them is at the end."""

    def convolution(self, call: Call, flow: Flow | None) -> Flow | None:
        """A convolution; its weight may be that of a module, or anything."""
        weight, bias, groups = call.args[1], call.args[2], call.args[8]
        owner = self.owned.get(weight)
        module = owner.module if owner is not None and owner.attribute == "weight" else None
        own_bias = bias is None or (owner is not None and self._belongs(bias, owner, "bias"))
        if not isinstance(module, _ConvNd) or isinstance(module, _ConvTransposeNd) or not own_bias or owner is None:
            kind = "a convolution whose weight or bias is no parameter of it"
            if call.args[6]:
                kind = "a transposed convolution"
            self.give_up([value for value in call.args[:3] if isinstance(value, Tensor)], f"{kind} uses them")
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
        return Flow.along(made, rows, 1, call.result.shape, source=name)

    def linear(self, call: Call, flow: Flow | None) -> Flow | None:
        """A linear layer, whose weight may arrive transposed."""
        if call.name == "addmm":
            bias, inputs, weight = call.args[:3]
            flow = self.known(inputs)
        else:
            inputs, weight, bias = (*call.args[:2], call.args[2] if len(call.args) > 2 else None)
        owner = self.owned.get(weight) if call.name == "linear" else self._transposed.get(weight)
        if (
            owner is None
            or not isinstance(owner.module, nn.Linear)
            or not (bias is None or self._belongs(bias, owner, "bias"))
        ):
            return self.unknown(call)
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
        return Flow.along(made, rows, call.result.ndim - 1, call.result.shape)

    def batch_norm(self, call: Call, flow: Flow) -> Flow | None:
        """A BatchNorm: zeros become its shift, unless scale and shift are zero."""
        args, out = call.args, call.result
        weight, bias = args[1:3]
        mean, variance = args[3:5] if not isinstance(args[3], bool) else (None, None)
        owner = next((self.owned.get(value) for value in (mean, weight) if isinstance(value, Tensor)), None)
        if weight is None and mean is None:  # nothing has one value per channel, and zeros have mean zero
            return flow if flow.is_along(1) else self.unknown(call)
        if owner is None or not isinstance(owner.module, _BatchNorm) or not flow.is_along(1):
            self.read(flow)
            self.give_up(call.tensors, "a BatchNorm that is no module uses them")
            return None
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

    def concatenation(self, call: Call, flow: Flow | None) -> Flow | None:
        """Channels one after the other, or images or places of the same channels."""
        out = call.result
        parts, dim = call.args[0], (call.args[1] if len(call.args) > 1 else 0) % out.ndim
        flows = [self.known(part) for part in parts]
        known = [flow for flow in flows if flow is not None]
        if len(known) != len(parts) or any(flow.ndim != out.ndim for flow in known):
            return self.unknown(call)
        for flow in known:
            self.read(flow)
        if dim not in known[0].varying() and all(flow.varying() == known[0].varying() for flow in known):
            for flow in known[1:]:
                self.record.tie(known[0].distinct(), flow.distinct())
        labels = torch.cat([flow.labels for flow in known], dim)
        return Flow(compressed(labels), compressed(torch.cat([flow.zero for flow in known], dim)))

    def reduction(self, call: Call, flow: Flow) -> Flow | None:
        """A mean or sum over images and places."""
        given = call.args[1] if len(call.args) > 1 else call.kwargs.get("dim")
        dims = {dim % flow.ndim for dim in ([given] if isinstance(given, int) else given or range(flow.ndim))}
        if dims & flow.varying():
            self.record.pin(flow.labels, f"operator {call.name} takes them together")
            return None
        keep = call.result.ndim == flow.ndim
        return Flow(index_like(flow.labels, dims, keep), index_like(flow.zero, dims, keep))

    def padding(self, call: Call, flow: Flow) -> Flow | None:
        """Padding of places; that of channels keeps them all."""
        pads = call.args[1]
        padded = {flow.ndim - 1 - index // 2 for index, pad in enumerate(pads) if pad}
        if padded & flow.varying() or not flow.is_along(1):
            self.record.pin(flow.labels, "channels of a fixed number are padded to them")
            return None
        resized = flow.resized(call.result.shape)
        if not any(call.args[2:]):
            return resized
        self.note_shift(flow.labels[flow.zero], "they are padded with a constant", direct=True)
        return resized.without_zeros()

    def pooling(self, call: Call, flow: Flow) -> Flow | None:
        """Each channel, dimension 1, alone, at other places."""
        return flow.resized(call.result.shape) if flow.is_along(1) else self.unknown(call)

    def regrouping(self, call: Call, flow: Flow) -> Flow | None:
        """An operator that moves elements and changes none."""
        return carry(call, flow) or self.unknown(call)

    def dropout(self, call: Call, flow: Flow) -> Flow:
        """Zeros stay zeros."""
        return flow

    def random(self, call: Call, flow: Flow) -> Flow:
        """Random numbers as many as there are elements."""
        return flow.without_zeros()

    def same_shape(self, call: Call, flow: Flow | None) -> Flow | Untouched:
        """A new tensor of the same shape."""
        if flow is None:
            return UNTOUCHED
        return flow.all_zero() if call.name == "zeros_like" else flow.without_zeros()

    def new(self, call: Call, flow: Flow | None) -> Untouched:
        """A new tensor of a given shape."""
        return UNTOUCHED

    rules = {
        "convolution": convolution,
        "cat": concatenation,
        **dict.fromkeys(("addmm", "mm", "linear"), linear),
        **dict.fromkeys(ELEMENTWISE, ElementRules.elementwise),
        "copy": ElementRules.copy,
        **dict.fromkeys(SAME_SHAPE, same_shape),
        **dict.fromkeys(NEW, new),
    }
    rules_of_one = {
        "constant_pad_nd": padding,
        **dict.fromkeys(BATCH_NORMS, batch_norm),
        **dict.fromkeys(POOLS, pooling),
        **dict.fromkeys(REDUCTIONS, reduction),
        **dict.fromkeys(REGROUPINGS, regrouping),
        **dict.fromkeys(RANDOM, random),
        **dict.fromkeys(DROPOUTS, dropout),
    }

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
