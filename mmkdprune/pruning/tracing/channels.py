"""Follow every single channel through one forward pass: what must be removed together, and what is zero.

Where :mod:`.layers` says which layers share a mask, this module says which *channels* are one and the same thing, with
a label for each, and whether zeros arrive where they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .channel_record import FlowRecord
from .channel_rules import FlowRules
from .labels import Flow, Unfinished, carry, compressed
from .leaves import leaves
from .operators import BATCH_NORMS, NEW, REGROUPINGS, SAME_SHAPE
from .shared_memory import ElementMap, same_place
from .steps import Step, step_of
from .watcher import UNTOUCHED, Call


class ChannelFlow(FlowRules):
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
        self.set(image, Flow.along(labels, torch.zeros(len(labels), dtype=torch.bool), 1, image.shape))
        self.owned.note(image)

    def watch(self, call: Call) -> None:
        """Run the operator, then follow the channels."""
        for value in call.tensors:
            self._meet(value)
        owner = next((found for value in call.tensors if (found := self.owned.get(value)) is not None), None)
        self._layer = owner.name if owner is not None else self._layer
        read = [flow.labels for value in call.tensors if (flow := self._finished(value)) is not None]
        call.run()
        for value in call.results:
            self.owned.note(value)
        try:
            if owner is not None or self.is_met(call):
                self._follow(call)
            for value in call.tensors:
                if value in self._transposed and call.name not in ("addmm", "mm", "linear"):
                    self.pin_parameters([value], f"operator {call.name} uses the weights themselves")
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            if self.strict:
                raise AssertionError(f"operator {call.name} is not followed") from error
            # Arguments that no rule counts on: right or refused, so the channels stay.
            self.give_up(call.tensors, f"operator {call.name} could not be followed ({type(error).__name__}: {error})")
            self._lose(call)
        for target in call.written():
            self._spread(target)
        states = [(value, self._finished(value), value in self.states) for value in call.results]
        self.steps.append(step_of(call, self._layer, read, states, self._values))

    def finish(self, outputs: Any) -> None:
        """Pin what the network returns."""
        for _, value in outputs:
            if isinstance(value, Tensor):
                self._meet(value)
                if (flow := self.known(value)) is not None:
                    self.read(flow)
                    self.record.pin(flow.labels, "they are outputs of the network")
        for layer, readers in self.readers.items():
            known = self.record.readers.setdefault(layer, readers)
            if known != readers:
                self.record.readers[layer] = [*known, *readers]

    def _follow(self, call: Call) -> None:
        flow = self.known(call.first)
        met = self.is_met(call)
        if met and isinstance(call.result, Tensor) and not call.result.numel() and call.name not in NEW:
            self.unknown(call)
            self._lose(call)
            return
        if not met and call.name not in ("convolution", "addmm", "mm", "linear"):
            self._parameters_alone(call)
            return
        followed = self.followed(call, flow)
        if followed is UNTOUCHED:
            return
        if flow is not None and followed is not flow and call.name not in BATCH_NORMS:
            self.read(flow)
        if followed is None:
            self._lose(call)
        else:
            self._set_results(call, followed)

    def _lose(self, call: Call) -> None:
        for value in call.results:
            self.set(value, None)

    def _set_results(self, call: Call, followed: Flow) -> None:
        """Further results are indices of the same channels (pooling), masks, or statistics of them (BatchNorm)."""
        for value in call.results:
            if value is call.result:
                self.set(value, followed)
            elif value.shape == call.result.shape:
                self.set(value, followed.without_zeros())
            elif value.ndim == 1 and value.numel() and followed.is_along(1) and len(value) == call.result.shape[1]:
                labels, zero = followed.channels(1)
                self.set(value, Flow.along(labels, torch.zeros_like(zero), 0, value.shape))
            else:
                self.set(value, None)

    def _parameters_alone(self, call: Call) -> None:
        """An operator on weights, before they meet what comes of the image."""
        owner = self.owned.get(call.first)
        if isinstance(call.out, Tensor) and self.owned.get(call.out) is not None:
            return  # the same tensor once more
        of_linear = owner is not None and isinstance(owner.module, nn.Linear) and owner.attribute == "weight"
        if call.name in ("t", "transpose", "permute") and of_linear and call.args[0].ndim == 2:
            self._transposed[call.out] = owner
            return
        if call.name in REGROUPINGS and len(call.tensors) == 1 and isinstance(call.out, Tensor):
            # A scale that is given the shape of an image: (C,) to (1, C, 1, 1).
            parameter = self.parameter(call.tensors[0])
            if parameter is not None:
                self.set(call.out, carry(call, parameter))
                return
        if call.name not in SAME_SHAPE and call.name not in NEW:
            self.pin_parameters(call.tensors, f"operator {call.name} uses the weights themselves")

    def _finished(self, value: Tensor) -> Flow | None:
        state = self.states.get(value)
        return state if isinstance(state, Flow) else None

    def _meet(self, value: Tensor) -> None:
        """Find out what is known of a tensor that no operator made."""
        if not self.owned.note(value) or value in self.states:
            return
        others = [other for other in self.owned.memory.others(value) if other in self.states]
        same = next((other for other in others if same_place(value, other)), None)
        if same is not None:
            self.set(value, self.states[same])
        elif others:
            self._reread(self._element_map(value, others), value)

    def _spread(self, target: Tensor) -> None:
        """Let all tensors that share a tensor's memory see what was written to it."""
        others = self.owned.memory.others(target)
        if not others or not (target in self.states or any(other in self.states for other in others)):
            return
        elements = None
        for other in others:
            if self.owned.get(other) is not None:
                self.give_up([target, other], "they are written into a parameter or buffer")
                self.set(other, None)
            elif same_place(target, other):
                if target in self.states:
                    self.set(other, self.states[target])
            else:
                if elements is None:
                    elements = self._element_map(target, [*others, target])
                self._reread(elements, other)

    def _element_map(self, tensor: Tensor, sources: Sequence[Tensor]) -> ElementMap:
        """Labels of a whole memory; what comes later in the list was written later."""
        elements = ElementMap(tensor)
        for source in sources:
            if source not in self.states:
                continue
            state = self.states[source]
            if source.dtype != elements.dtype or state is None:
                self._pin_state(state)
                if source.dtype == elements.dtype:
                    elements.write(source, ElementMap.LOST, False)
            else:
                elements.write(source, state.labels, state.zero)
        return elements

    def _reread(self, elements: ElementMap, tensor: Tensor) -> None:
        """Set what is known of a tensor by the memory that it lies in."""
        old = self.states.get(tensor)
        if tensor.dtype != elements.dtype:
            self._pin_state(old)
            self.set(tensor, None)
            return
        labels, zero = elements.read(tensor)
        if not bool((labels != ElementMap.CONSTANT).any()):
            return
        if bool((labels == ElementMap.LOST).any()):
            self._pin_state(old)
            self.record.pin(labels[labels >= 0], "a part of their memory is written to")
            self.set(tensor, None)
        elif bool((labels == ElementMap.CONSTANT).any()):
            self.states[tensor] = Unfinished(labels, zero)
        else:
            flow = Flow(compressed(labels), compressed(zero))
            if len(flow.varying()) > 1:
                self.record.pin(labels, "a part of their memory is written to")
            self.set(tensor, flow if len(flow.varying()) <= 1 else None)

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
