"""Follow channels through one forward pass: which BatchNorm belongs to which convolution, which layers are coupled.

Weights, statistics, modes and random state of the model stay as they were.
"""

import re
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ..forward import flat
from ..modes import evaluating
from .layer_record import Channels, Trace
from .layer_rules import LayerRules
from .leaves import UnknownOutputError, leaves
from .shared_memory import SharedMemory, same_place
from .uses import Uses
from .watcher import UNTOUCHED, Call

# Where the block around a shortcut cannot be followed, its name in the ResNet line tells it.
SHORTCUT_NAME = re.compile(r"(^|\.)(downsample|shortcut)(\.|$)")


class Tracer(LayerRules):
    """Watches the operators of a forward pass and fills a :class:`Trace`."""

    def __init__(self, network: nn.Module, image: Tensor) -> None:
        super().__init__(network)
        self.trace.image = self.new_node(image.shape[1], None, "the image's channels meet it")
        self._uses = Uses(self.owned)
        self._uses.start(image)
        self._memory = SharedMemory()
        self._alive: list[Tensor] = []  # what is known of a tensor that is gone holds for others in its memory
        self.set(image, Channels((self.trace.image,)))

    def watch(self, call: Call) -> None:
        """Run the operator, then follow the channels."""
        for value in call.tensors:
            self._meet(value)
        before = [(target, self.known(target)) for target in call.written()]
        try:
            call.run()
        except Exception:
            self._uses.note_read(call.tensors)
            raise
        if self.is_met(call):
            followed = self.followed(call, self.known(call.first))
            if followed is not UNTOUCHED:
                self.set(call.result, followed)
        self._uses.follow(call)
        for target, earlier in before:
            self._spread(target, earlier)
            self._uses.spread(target, self._memory.others(target))

    def finish(self, outputs: Any) -> Trace:
        """Note what the network returns, and which convolutions make no features."""
        for value in outputs:
            self.trace.outputs |= self._uses.of(value).names
            if (channels := self.known(value)) is not None:
                self.use(channels)
        self.trace.uses |= self._uses.reasons
        self.trace.gates |= self._uses.gates
        self.trace.unread = set(self.trace.convs) - self._uses.read - self.trace.outputs - self.trace.gates
        return self.trace

    def set(self, tensor: Any, known: Channels | None) -> None:
        """Note what is known of a tensor, or of all that an operator returned."""
        for value in flat(tensor):
            if isinstance(value, Tensor):
                super().set(value, known)
                self._memory.note(value)
                self._alive.append(value)

    def _meet(self, value: Tensor) -> None:
        """A tensor that no operator made may be one that is known, in the same memory."""
        if self._memory.note(value):
            for other in self._memory.others(value):
                if same_place(value, other) and (channels := self.known(other)) is not None:
                    self.set(value, channels)

    def _spread(self, target: Tensor, before: Channels | None) -> None:
        """What is written through one tensor changes all others in its memory."""
        after = self.known(target)
        for other in self._memory.others(target):
            known = self.known(other)
            if after is not None and same_place(target, other):
                self.set(other, after)
            elif known is not None and (after is None or after is not before):
                self.use(known)
                known.block("a part of their memory is written to")
                self.set(other, None)


def trace_channels(network: nn.Module, image: Tensor, model: nn.Module | None = None) -> Trace:
    """Follow the channels of a network through one forward pass.

    Args:
        network (nn.Module): The network; called as ``network(image)`` in evaluation mode, without gradients.
        image (Tensor): Input, (B, C, H, W).
        model (nn.Module, optional): What to call instead, which contains the network.

    Returns:
        Trace: What was learned. A pass that fails after all convolutions were met (for example in a classifier that
        wants another image size) counts as complete.
    """
    convs = {name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    runs = network if model is None else model
    unfinished: Tracer | None = None
    failure: Exception | None = None
    for arguments in _arguments(runs, image):
        with evaluating(runs), torch.no_grad(), torch.random.fork_rng(devices=_devices(image)):
            tracer = Tracer(network, image)
            try:
                with tracer:
                    outputs = runs(*arguments)
            except Exception as error:
                failure = failure or error
                if not convs - set(tracer.trace.convs):
                    unfinished = unfinished or tracer
                continue
            return _named(tracer.finish(_returned(outputs)), model)
    if unfinished is None:
        assert failure is not None
        raise failure
    return _named(unfinished.finish([]), model)


def _arguments(model: nn.Module, image: Tensor) -> list[tuple[Any, ...]]:
    """What to call a model with, in turn: a detector of two stages wants to know of the images that they are whole."""
    if not hasattr(model, "data_preprocessor"):
        return [(image,)]
    shape = tuple(image.shape[-2:])
    facts: dict[str, Any] = dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), shape)
    sample = SimpleNamespace(metainfo={**facts, "scale_factor": (1.0, 1.0)})
    return [(image,), (image, [sample] * len(image))]


def _named(trace: Trace, model: nn.Module | None) -> Trace:
    trace.of_model = model is not None
    for name, conv in trace.convs.items():
        conv.shortcut = conv.shortcut or bool(SHORTCUT_NAME.search(name))
    return trace


def _devices(image: Tensor) -> list[torch.device]:
    return [image.device] if image.device.type == "cuda" else []


def _returned(outputs: Any) -> list[Any]:
    try:
        return [value for _, value in leaves(outputs)]
    except UnknownOutputError:
        return flat(outputs)
