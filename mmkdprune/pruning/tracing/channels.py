"""Follow every single channel through one forward pass: what must be removed together, and what is zero.

Where :mod:`.layers` says which layers share a mask, this module says which *channels* are one and the same thing, with
a label for each, and whether zeros arrive where they are used. Both watch the pass at the level of PyTorch's operators,
so frozen parameters, activation checkpointing, in-place operations and control flow make no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..forward import flat
from .channel_record import FlowRecord
from .channel_rules import FlowRules
from .labels import Flow, Unfinished, carry, compressed
from .leaves import leaves
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
    base_name,
    bound,
    written,
)
from .shared_memory import ElementMap, same_place
from .steps import Step, step_of

_WEIGHT_READERS = {"convolution", "addmm", "mm", "linear", *BATCH_NORMS, *ELEMENTWISE}


class ChannelFlow(FlowRules, TorchDispatchMode):
    """Watches the operators of a forward pass and fills a :class:`FlowRecord`.

    Args:
        network (nn.Module): Whose parameters are met.
        image (Tensor): The input, (B, C, H, W).
        record (FlowRecord): Takes what is learned; that of an earlier pass is completed.
        values (bool): Whether the steps hold the values of what is computed, to be compared with another network's.
    """

    strict = False  # for tests: an error in a rule is raised

    def __init__(self, network: nn.Module, image: Tensor, record: FlowRecord, values: bool = False) -> None:
        super().__init__(network, record)
        self.steps: list[Step] = []
        self._values = values
        self._layer = ""
        if record.image is None:
            record.image = record.fresh(image.shape[1])
            record.pin(record.image, "they are the image's channels")
        labels = record.image
        self._flows[image] = Flow.along(labels, torch.zeros(len(labels), dtype=torch.bool), 1, image.shape)
        self.owned.note(image)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, then follow the channels."""
        args, kwargs = bound(func, args, kwargs or {})
        name = base_name(func)
        tensors = [value for value in flat([args, kwargs]) if isinstance(value, Tensor)]
        for value in tensors:
            self._meet(value)
        owner = next((found for value in tensors if (found := self.owned.get(value)) is not None), None)
        self._layer = owner.name if owner is not None else self._layer
        read = [flow.labels for value in tensors if (flow := self._state(value)) is not None]
        out = func(*args, **kwargs)
        results = [value for value in flat(out) if isinstance(value, Tensor)]
        for value in results:
            self.owned.note(value)
        try:
            if any(value in self._flows for value in tensors) or owner is not None:
                self._follow(name, func, args, kwargs, tensors, out)
            for value in tensors:
                if value in self._transposed and name not in ("addmm", "mm", "linear"):
                    self.pin_parameters([value], f"operator {name} uses the weights themselves")
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            if self.strict:
                raise AssertionError(f"operator {name} is not followed") from error
            # Arguments that no rule counts on: right or refused, so the channels stay.
            self.give_up(name, tensors, f"operator {name} could not be followed ({type(error).__name__}: {error})")
            self._set_results(out, None, None)
        for target in written(func, args, kwargs):
            self._spread(target)
        states = [(value, self._state(value), value in self._flows) for value in results]
        self.steps.append(step_of(name, args, kwargs, self._layer, read, states, self._values))
        return out

    def finish(self, outputs: Any) -> None:
        """Pin what the network returns."""
        for _, value in outputs:
            if isinstance(value, Tensor):
                self._meet(value)
                if (flow := self.flow(value)) is not None:
                    self.read(flow)
                    self.record.pin(flow.labels, "they are outputs of the network")
        for layer, readers in self.readers.items():
            known = self.record.readers.setdefault(layer, readers)
            if known != readers:
                self.record.readers[layer] = [*known, *readers]

    def _follow(
        self, name: str, func: Any, args: Sequence, kwargs: Mapping[str, Any], tensors: list[Tensor], out: Any
    ) -> None:
        first = args[0] if args and isinstance(args[0], Tensor) else None
        flow = self.flow(first)
        result = out[0] if isinstance(out, (tuple, list)) and out and isinstance(out[0], Tensor) else out
        met = any(value in self._flows for value in tensors)
        followed: Flow | None
        if isinstance(result, Tensor) and not result.numel() and name not in NEW and met:
            self.give_up(name, tensors)
            self._set_results(out, result, None)
            return
        if not met and name not in ("convolution", "addmm", "mm", "linear"):
            self._parameters_alone(name, func, args, kwargs, tensors, out)
            return
        if name in NEW:
            return
        if name in SAME_SHAPE or (name in RANDOM and flow is not None and name not in DROPOUTS):
            if flow is None:
                return
            zero = torch.full((1,) * flow.ndim, name == "zeros_like", dtype=torch.bool)
            followed = Flow(flow.labels, zero.expand(flow.shape))
        elif name == "convolution":
            followed = self.convolution(flow, args, result)
        elif name in ("addmm", "mm", "linear"):
            followed = self.linear(name, args, result, tensors)
        elif name in BATCH_NORMS and flow is not None:
            followed = self.batch_norm(flow, args, result, tensors)
        elif name == "copy":
            followed = self.copy(args, result, tensors)
            if followed is None and not self.is_lost(args[1]) and self.operand(args[1]) is None and flow is None:
                return
        elif name in ELEMENTWISE and isinstance(result, Tensor):
            followed = self.elementwise(name, func, args, kwargs, result, tensors)
        elif name == "cat":
            followed = self.concatenation(args, tensors, result)
        elif flow is None or first is None:
            followed = self.give_up(name, tensors)
        elif name in DROPOUTS:
            followed = flow
        elif name in POOLS:
            followed = flow.resized(result.shape) if flow.is_along(1) else self.give_up(name, tensors)
        elif name in REDUCTIONS:
            followed = self.reduction(name, flow, args, kwargs, result)
        elif name in REGROUPINGS:
            followed = carry(func, name, flow, args, kwargs, result) or self.give_up(name, tensors)
        elif name == "constant_pad_nd":
            followed = self.padding(flow, args, result)
        else:
            followed = self.give_up(name, tensors)
        if flow is not None and followed is not flow and name not in BATCH_NORMS:
            self.read(flow)
        self._set_results(out, result, followed)

    def _set_results(self, out: Any, result: Any, followed: Flow | None) -> None:
        """Further results are indices of the same channels (pooling), masks, or statistics of them (BatchNorm)."""
        for value in flat(out):
            if not isinstance(value, Tensor):
                continue
            if value is result or followed is None:
                self._flows[value] = followed
            elif value.shape == result.shape:
                self._flows[value] = followed.without_zeros()
            elif value.ndim == 1 and value.numel() and followed.is_along(1) and len(value) == result.shape[1]:
                labels, zero = followed.channels(1)
                self._flows[value] = Flow.along(labels, torch.zeros_like(zero), 0, value.shape)
            else:
                self._flows[value] = None

    def _parameters_alone(
        self, name: str, func: Any, args: Sequence, kwargs: Mapping[str, Any], tensors: list[Tensor], out: Any
    ) -> None:
        """An operator on weights, before they meet what comes of the image."""
        owner = self.owned.get(args[0]) if args else None
        if isinstance(out, Tensor) and self.owned.get(out) is not None:
            return  # the same tensor once more
        of_linear = owner is not None and isinstance(owner.module, nn.Linear) and owner.attribute == "weight"
        if name in ("t", "transpose", "permute") and of_linear and args[0].ndim == 2:
            self._transposed[out] = owner
            return
        if name in REGROUPINGS and len(tensors) == 1 and isinstance(out, Tensor):
            # A scale that is given the shape of an image: (C,) to (1, C, 1, 1).
            parameter = self.parameter(tensors[0])
            if parameter is not None:
                self._flows[out] = carry(func, name, parameter, args, kwargs, out)
                return
        if name not in SAME_SHAPE and name not in NEW:
            self.pin_parameters(tensors, f"operator {name} uses the weights themselves")

    def _state(self, value: Tensor) -> Flow | None:
        state = self._flows.get(value)
        return state if isinstance(state, Flow) else None

    def _meet(self, value: Tensor) -> None:
        """Find out what is known of a tensor that no operator made."""
        if not self.owned.note(value) or value in self._flows:
            return
        others = [other for other in self.owned.memory.others(value) if other in self._flows]
        same = next((other for other in others if same_place(value, other)), None)
        if same is not None:
            self._flows[value] = self._flows[same]
        elif others:
            self._reread(self._element_map(value, others), value)

    def _spread(self, target: Tensor) -> None:
        """Let all tensors that share a tensor's memory see what was written to it."""
        others = self.owned.memory.others(target)
        if not others or not (target in self._flows or any(other in self._flows for other in others)):
            return
        elements = None
        for other in others:
            if self.owned.get(other) is not None:
                self.give_up("copy", [target, other], "they are written into a parameter or buffer")
                self._flows[other] = None
            elif same_place(target, other):
                if target in self._flows:
                    self._flows[other] = self._flows[target]
            else:
                if elements is None:
                    elements = self._element_map(target, [*others, target])
                self._reread(elements, other)

    def _element_map(self, tensor: Tensor, sources: Sequence[Tensor]) -> ElementMap:
        """Labels of a whole memory; what comes later in the list was written later."""
        elements = ElementMap(tensor)
        for source in sources:
            if source not in self._flows:
                continue
            state = self._flows[source]
            if source.dtype != elements.dtype or state is None:
                self._pin_state(state)
                if source.dtype == elements.dtype:
                    elements.write(source, ElementMap.LOST, False)
            else:
                elements.write(source, state.labels, state.zero)
        return elements

    def _reread(self, elements: ElementMap, tensor: Tensor) -> None:
        """Set what is known of a tensor by the memory that it lies in."""
        old = self._flows.get(tensor)
        if tensor.dtype != elements.dtype:
            self._pin_state(old)
            self._flows[tensor] = None
            return
        labels, zero = elements.read(tensor)
        if not bool((labels != ElementMap.CONSTANT).any()):
            return
        if bool((labels == ElementMap.LOST).any()):
            self._pin_state(old)
            self.record.pin(labels[labels >= 0], "a part of their memory is written to")
            self._flows[tensor] = None
        elif bool((labels == ElementMap.CONSTANT).any()):
            self._flows[tensor] = Unfinished(labels, zero)
        else:
            flow = Flow(compressed(labels), compressed(zero))
            if len(flow.varying()) > 1:
                self.record.pin(labels, "a part of their memory is written to")
            self._flows[tensor] = flow if len(flow.varying()) <= 1 else None

    def _pin_state(self, state: Any) -> None:
        if state is not None:
            self.record.pin(state.labels[state.labels >= 0], "a part of their memory is written to")


def follow_channels(
    network: nn.Module,
    forward: Callable[[nn.Module, Tensor], Any],
    image: Tensor,
    record: FlowRecord,
    values: bool = False,
) -> tuple[list[Step], list[tuple[str, Any]]]:
    """Follow the channels of a network through one forward pass.

    Args:
        network (nn.Module): In the mode to be followed.
        forward (Callable): ``forward(network, image)`` runs it.
        image (Tensor): Input, (B, C, H, W).
        record (FlowRecord): Takes what is learned.
        values (bool): Whether the steps hold the values of what is computed.

    Returns:
        tuple[list[Step], list[tuple[str, Any]]]: All operators of the pass, and what the network returned.

    Raises:
        UnknownOutputError: If the output holds an object that cannot be looked into.
    """
    with torch.no_grad():
        flow = ChannelFlow(network, image, record, values)
        with flow:
            outputs = leaves(forward(network, image))
        flow.finish(outputs)
    return flow.steps, outputs
