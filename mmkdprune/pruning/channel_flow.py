"""Follow every single channel through one forward pass: what must be removed together, and what is zero.

Where :mod:`.trace` says which layers share a mask, this module says which *channels* are one and the same thing, with a
label for each, and whether zeros arrive where they are used. Both watch the pass at the level of PyTorch's operators,
so frozen parameters, activation checkpointing, in-place operations and control flow make no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from .flow import Flow, carry, compressed, flat, index_like, zero_rows, zero_values
from .flow_record import Dim, FlowRecord, Use
from .operators import BATCH_NORMS, GROUP_NORMS, POOLS, REDUCTIONS, REGROUPINGS, SHIFTS, keeps_channels


class ChannelFlow(TorchDispatchMode):
    """Watches the operators of a forward pass and fills a :class:`FlowRecord`.

    Args:
        network (nn.Module): Whose parameters are met.
        image (Tensor): The input, (B, C, H, W).
    """

    def __init__(self, network: nn.Module, image: Tensor) -> None:
        super().__init__()
        self.record = FlowRecord()
        self._owners: dict[int, tuple[str, nn.Module, str]] = {}
        for name, module in network.named_modules():
            for attribute, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None:
                    self._owners.setdefault(id(tensor), (name, module, attribute))
        self._flows: Any = WeakIdKeyDictionary()  # None: there is a flow, but it could not be followed
        self._transposed: Any = WeakIdKeyDictionary()
        labels = self.record.fresh(image.shape[1])
        self.record.pin(labels, "they are the image's channels")
        self._flows[image] = Flow.along(labels, torch.zeros(len(labels), dtype=torch.bool), 1, image.shape)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, then follow the channels."""
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        name = name.rstrip("_") if name.endswith("_") else name
        tensors = [value for value in flat(args) if isinstance(value, Tensor)]
        if any(value in self._flows for value in tensors):
            self._follow(name, func, args, kwargs or {}, tensors, out)
        elif name in ("t", "transpose", "permute") and self._owner(args[0], nn.Linear) and args[0].ndim == 2:
            self._transposed[out] = self._owners[id(args[0])]
        elif name in REGROUPINGS and len(tensors) == 1 and isinstance(out, Tensor):
            # A scale that is given the shape of an image: (C,) to (1, C, 1, 1).
            parameter = self._parameter(tensors[0])
            if parameter is not None:
                self._flows[out] = carry(func, name, parameter, args, kwargs or {}, out)
        return out

    def finish(self, outputs: Any) -> FlowRecord:
        """Pin what the network returns."""
        for value in flat(outputs):
            if isinstance(value, Tensor) and (flow := self._flows.get(value)) is not None:
                self._read(flow)
                self.record.pin(flow.labels, "they are outputs of the network")
        return self.record

    def _follow(self, name: str, func: Any, args: Sequence, kwargs: dict, tensors: list[Tensor], out: Any) -> None:
        flow = self._flows.get(args[0]) if args and isinstance(args[0], Tensor) else None
        result = out[0] if isinstance(out, (tuple, list)) and out and isinstance(out[0], Tensor) else out
        followed: Flow | None
        if name == "convolution":
            followed = self._convolution(flow, args, result)
        elif name in ("addmm", "mm", "linear"):
            followed = self._linear(name, args, result, tensors)
        elif name in BATCH_NORMS and flow is not None:
            followed = self._batch_norm(flow, args, result)
        elif name in ("add", "sub", "mul", "div", "maximum", "minimum", "rsub"):
            followed = self._elementwise(name, args, result, tensors)
        elif name == "cat":
            followed = self._concatenation(args, tensors, result)
        elif flow is None:
            followed = self._give_up(name, tensors)
        elif name in POOLS:
            followed = flow.resized(result.shape) if flow.is_along(1) else self._give_up(name, tensors)
        elif name in REDUCTIONS:
            followed = self._reduction(name, flow, args, kwargs, result)
        elif name in REGROUPINGS:
            followed = carry(func, name, flow, args, kwargs, result) or self._give_up(name, tensors)
        elif name == "constant_pad_nd":
            followed = self._padding(flow, args, result)
        elif name in SHIFTS:
            followed = self._shifted(flow, f"{name}(0) is not 0")
        elif name in ("prelu", "_prelu_kernel"):
            slope = self._operand(args[1])
            followed = flow if slope is None else self._joined(flow, slope, "mul", result)
        elif isinstance(result, Tensor) and keeps_channels(name, args, kwargs, flow.shape[1], result):
            followed = flow if result.shape == flow.shape else flow.resized(result.shape)
        else:
            followed = self._give_up(name, tensors)
        if flow is not None and followed is not flow and name not in BATCH_NORMS:
            self._read(flow)
        for value in flat(out):
            if isinstance(value, Tensor):
                self._flows[value] = followed if value is result else None

    def _convolution(self, flow: Flow | None, args: Sequence[Any], out: Tensor) -> Flow | None:
        weight, bias, groups = args[1], args[2], args[8]
        name, module, _ = self._owners.get(id(weight), ("", None, ""))
        if not isinstance(module, _ConvNd) or isinstance(module, _ConvTransposeNd):
            if flow is not None:
                kind = "a transposed convolution" if args[6] else "a convolution whose weight is no parameter"
                self.record.pin(flow.labels, f"{kind} uses them")
            return None
        if flow is not None and not flow.is_along(1):
            self.record.pin(flow.labels, f"{name} uses them in another order")
            flow = None
        depthwise = groups == module.in_channels == len(weight) and groups > 1
        made = self.record.labels(Dim(name, "out"), len(weight))
        own = zero_rows(weight) & zero_values(bias, len(weight))
        rows = own
        if flow is not None:
            labels, zero = flow.channels(1)
            rows = zero_rows(weight, zero, groups) & zero_values(bias, len(weight))
            if depthwise:
                self.record.tie(made, labels)
                self._note_shift(labels[zero & ~rows], f"{name} has a bias", direct=True)
            else:
                self._use(name, labels, zero, groups)
        elif depthwise:
            self.record.pin(made, "where they come from could not be followed")
        if groups > 1 and not depthwise:
            self.record.parts.append(list(made.chunk(groups)))
        self._note_filters(name, own, follows=depthwise)
        return Flow.along(made, rows, 1, out.shape, source=name)

    def _use(self, layer: str, labels: Tensor, zero: Tensor, groups: int = 1) -> None:
        read = self.record.labels(Dim(layer, "in"), len(labels))
        self.record.tie(read, labels)
        self.record.uses.append(Use(layer, read, zero))
        if groups > 1:
            self.record.parts.append(list(read.chunk(groups)))

    def _note_filters(self, layer: str, zero: Tensor, follows: bool = False) -> None:
        known = self.record.zero_filters.get(layer)
        self.record.zero_filters[layer] = zero if known is None else zero & known
        if follows:
            self.record.followers.add(layer)

    def _linear(self, name: str, args: Sequence[Any], out: Tensor, tensors: list[Tensor]) -> Flow | None:
        bias, inputs, weight = args[:3] if name == "addmm" else (args[2] if len(args) > 2 else None, *args[:2])
        flow = self._flows.get(inputs)
        owner = self._owners.get(id(weight)) if name == "linear" else self._transposed.get(weight)
        if owner is None or not isinstance(owner[1], nn.Linear):
            return self._give_up(name, tensors)
        layer, module, _ = owner
        filters = module._parameters["weight"]
        assert filters is not None
        own = zero_rows(filters) & zero_values(bias, len(filters))
        rows = own
        if flow is not None and flow.is_along(inputs.ndim - 1):
            labels, zero = flow.channels(inputs.ndim - 1)
            rows = zero_rows(filters, zero) & zero_values(bias, len(filters))
            self._use(layer, labels, zero)
        elif flow is not None:
            self.record.pin(flow.labels, f"{layer} uses them in another order")
        self._note_filters(layer, own)
        made = self.record.labels(Dim(layer, "out"), len(filters))
        return Flow.along(made, rows, out.ndim - 1, out.shape)

    def _batch_norm(self, flow: Flow, args: Sequence[Any], out: Tensor) -> Flow | None:
        weight, bias, mean, variance = args[1:5]
        name, module, _ = next((self._owners[id(v)] for v in (mean, weight) if id(v) in self._owners), ("", None, ""))
        if not isinstance(module, _BatchNorm) or not flow.is_along(1):
            self._read(flow)
            self.record.pin(flow.labels, "a BatchNorm that is no module uses them")
            return None
        self._read(flow, name)
        labels, zero = flow.channels(1)
        made = self.record.labels(Dim(name, "out"), len(labels))
        self.record.tie(made, labels)
        silent = torch.zeros_like(zero)
        if weight is not None:
            silent = (weight.detach() == 0).cpu() & (bias.detach() == 0).cpu()
        if mean is not None:
            probe = torch.zeros((1, len(labels), 1, 1), dtype=out.dtype, device=out.device)
            at_zero = nn.functional.batch_norm(probe, mean, variance, weight, bias, False, 0.0, args[7])
            silent |= zero & (at_zero.flatten() == 0).cpu()
        shifted = labels[zero & ~silent]
        self._note_shift(shifted, f"BatchNorm {name} turns zeros into a constant (its shift)", bool(flow.source))
        known = self.record.zero_after.get(name)
        self.record.zero_after[name] = silent if known is None else silent & known
        return Flow.along(made, silent, 1, out.shape)

    def _elementwise(self, name: str, args: Sequence[Any], out: Tensor, tensors: list[Tensor]) -> Flow | None:
        flows = [self._operand(value) for value in args[:2]]
        first, second = flows
        product = name in ("mul", "div")
        if first is not None and second is not None:
            return self._joined(first, second, name, out)
        flow, other = (first, args[1]) if first is not None else (second, args[0])
        if flow is None or (isinstance(other, Tensor) and other in self._flows):
            return self._give_up(name, tensors)
        if isinstance(other, Tensor) and other.numel() > 1:
            aligned = other.reshape((1,) * (out.ndim - other.ndim) + tuple(other.shape))
            if any(aligned.shape[dim] != 1 for dim in flow.broadcast(out.shape).varying()):
                self.record.pin(flow.labels, "a tensor of fixed size meets them")
                return None
        flow = flow.broadcast(out.shape)
        if (product and not (name == "div" and first is None)) or (isinstance(other, (int, float)) and other == 0):
            return flow
        return self._shifted(flow, "a constant is added to zeros")

    def _operand(self, value: Any) -> Flow | None:
        if not isinstance(value, Tensor):
            return None
        return self._flows.get(value) if value in self._flows else self._parameter(value)

    def _parameter(self, value: Tensor) -> Flow | None:
        """A bias or scale of one value a channel."""
        owner = self._owners.get(id(value))
        if owner is None or value.ndim != 1 or len(value) == 1:
            return None
        labels = self.record.labels(Dim(owner[0], "out"), len(value))
        if len(labels) != len(value):
            return None
        return Flow.along(labels, (value.detach() == 0).cpu(), 0, value.shape)

    def _joined(self, first: Flow, second: Flow, name: str, out: Tensor) -> Flow:
        self._read(first)
        self._read(second)
        first, second = first.broadcast(out.shape), second.broadcast(out.shape)
        either, both = first.zero | second.zero, first.zero & second.zero
        zero = either if name == "mul" else first.zero if name == "div" else both
        wide, narrow = (first, second) if first.varying() >= second.varying() else (second, first)
        if wide.varying() > narrow.varying():
            # One map for all channels of the other operand.
            self.record.pin(narrow.labels, "they scale or shift all channels of another layer")
            return Flow(wide.labels, compressed(zero))
        if first.varying() != second.varying():
            self.record.pin(first.labels, "they meet others along another dimension")
            self.record.pin(second.labels, "they meet others along another dimension")
            return first.without_zeros()
        self.record.tie(*(flow.distinct() for flow in (first, second)))
        return Flow(first.labels, compressed(zero))

    def _concatenation(self, args: Sequence[Any], tensors: list[Tensor], out: Tensor) -> Flow | None:
        parts, dim = args[0], (args[1] if len(args) > 1 else 0) % out.ndim
        flows = [self._flows.get(part) for part in parts]
        known = [flow for flow in flows if flow is not None]
        if len(known) != len(parts) or any(flow.ndim != out.ndim for flow in known):
            return self._give_up("cat", tensors)
        for flow in known:
            self._read(flow)
        if dim not in known[0].varying() and all(flow.varying() == known[0].varying() for flow in known):
            for flow in known[1:]:
                self.record.tie(known[0].distinct(), flow.distinct())
        labels = torch.cat([flow.labels for flow in known], dim)
        return Flow(compressed(labels), compressed(torch.cat([flow.zero for flow in known], dim)))

    def _reduction(self, name: str, flow: Flow, args: Sequence, kwargs: dict, out: Tensor) -> Flow | None:
        given = args[1] if len(args) > 1 else kwargs.get("dim")
        dims = {dim % flow.ndim for dim in ([given] if isinstance(given, int) else given or range(flow.ndim))}
        if dims & flow.varying():
            self.record.pin(flow.labels, f"operator {name} takes them together")
            return None
        keep = out.ndim == flow.ndim
        return Flow(index_like(flow.labels, dims, keep), index_like(flow.zero, dims, keep))

    def _padding(self, flow: Flow, args: Sequence[Any], out: Tensor) -> Flow | None:
        pads = args[1]
        padded = {flow.ndim - 1 - index // 2 for index, pad in enumerate(pads) if pad}
        if padded & flow.varying() or not flow.is_along(1):
            self.record.pin(flow.labels, "channels of a fixed number are padded to them")
            return None
        resized = flow.resized(out.shape)
        return self._shifted(resized, "they are padded with a constant") if any(args[2:]) else resized

    def _shifted(self, flow: Flow, reason: str) -> Flow:
        self._note_shift(flow.labels[flow.zero], reason, direct=True)
        return flow.without_zeros()

    def _note_shift(self, labels: Tensor, reason: str, direct: bool) -> None:
        if labels.numel():
            self.record.shifted.append((labels.unique(), reason))
            if direct:
                self.record.refused.append((labels.unique(), reason))

    def _give_up(self, name: str, tensors: list[Tensor]) -> Flow | None:
        reason = GROUP_NORMS.get(name, f"operator {name}")
        for value in tensors:
            if (flow := self._flows.get(value)) is not None:
                self.record.pin(flow.labels, f"{reason} takes them together or regroups them")
        return None

    def _read(self, flow: Flow, reader: str = "") -> None:
        """Something other than the same channels again comes of them."""
        if flow.source:
            self.record.readers.setdefault(flow.source, []).append(reader)

    def _owner(self, value: Any, kind: type) -> bool:
        return isinstance(value, Tensor) and isinstance(self._owners.get(id(value), ("", None, ""))[1], kind)


def follow_channels(network: nn.Module, forward: Callable[[nn.Module, Tensor], Any], image: Tensor) -> FlowRecord:
    """Follow the channels of a network through one forward pass.

    Args:
        network (nn.Module): In evaluation mode.
        forward (Callable): ``forward(network, image)`` runs it.
        image (Tensor): Input, (B, C, H, W).

    Returns:
        FlowRecord: What was learned.
    """
    with torch.no_grad():
        flow = ChannelFlow(network, image)
        with flow:
            outputs = forward(network, image)
        return flow.finish(outputs)
