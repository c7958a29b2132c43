"""Follow channels through one forward pass: which BatchNorm belongs to which convolution, which layers are coupled.

The pass is watched at the level of PyTorch's operators, below modules and autograd. So frozen parameters, activation
checkpointing, in-place operations and control flow in ``forward`` make no difference, and nothing is guessed from
names. Weights, statistics, modes and random state of the model stay as they were.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

from ..forward import flat
from ..modes import evaluating
from .layer_record import ChannelNode, Channels, Trace, TracedConv, joined
from .leaves import UnknownOutputError, leaves
from .operators import BATCH_NORMS, ELEMENTWISE, GROUP_NORMS, LINEAR, base_name, bound, keeps_channels, keeps_elements
from .operators import written as written_by
from .shared_memory import SharedMemory, same_place

# Where the block around a shortcut cannot be followed, its name in the ResNet line tells it.
SHORTCUT_NAME = re.compile(r"(^|\.)(downsample|shortcut)(\.|$)")


class Tracer(TorchDispatchMode):
    """Watches the operators of a forward pass and fills a :class:`Trace`."""

    def __init__(self, network: nn.Module, image: Tensor) -> None:
        super().__init__()
        self.trace = Trace()
        self.trace.image = self._new_node(image.shape[1], frozenset(), "the image's channels meet it")
        self._modules: dict[int, tuple[str, nn.Module]] = {}
        for name, module in network.named_modules():
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is not None:
                    self._modules.setdefault(id(tensor), (name, module))
        self._known: dict[int, Channels] = {}
        self._lost: set[int] = set()
        self._alive: list[Tensor] = []  # a tensor that is freed would give its id to another one
        self._memory = SharedMemory()
        self._set(image, Channels((self.trace.image,)))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, then follow the channels."""
        args, kwargs = bound(func, args, kwargs or {})
        tensors = [value for value in flat([args, kwargs]) if isinstance(value, Tensor)]
        for value in tensors:
            self._meet(value)
        before = {id(value): self._known.get(id(value)) for value in tensors}
        out = func(*args, **kwargs)
        if any(id(value) in self._known or id(value) in self._lost for value in tensors):
            self._follow(func, args, kwargs, tensors, out)
        for target in written_by(func, args, kwargs):
            self._spread(target, before.get(id(target)))
        return out

    def finish(self, outputs: Any) -> Trace:
        """Note what the network returns."""
        for value in outputs:
            if isinstance(value, Tensor) and (channels := self._known.get(id(value))):
                self._use(channels)
                for node in channels.nodes:
                    if len(node.sources) == 1 and not node.norms:
                        self.trace.outputs |= node.sources
        return self.trace

    def _follow(self, func: Any, args: Sequence[Any], kwargs: dict, tensors: list[Tensor], out: Any) -> None:
        name = base_name(func)
        result = out[0] if isinstance(out, (tuple, list)) and out and isinstance(out[0], Tensor) else out
        channels = self._known.get(id(args[0])) if args and isinstance(args[0], Tensor) else None
        followed: Channels | None
        if name == "convolution":
            followed = self._convolution(args, channels, result)
        elif name in ("add", "sub", "mul", "div"):
            followed = self._elementwise(name, args, tensors)
        elif name == "cat":
            followed = self._concatenation(args, result)
        elif name in ("split", "split_with_sizes", "chunk") and channels is not None:
            self._split(channels, out, args)
            return
        elif name in BATCH_NORMS:
            followed = (
                self._batch_norm(channels, args) if channels is not None else self._lost_norm(name, args, tensors)
            )
        elif channels is not None and name in GROUP_NORMS:
            channels.block(f"{GROUP_NORMS[name]} mixes its channels")
            followed = channels.shifted(
                f"a zero channel changes the statistics of the {GROUP_NORMS[name]} that follows"
            )
        elif channels is not None and keeps_channels(func, args, kwargs, channels.size, result):
            followed = channels
        elif channels is not None and keeps_elements(name, args, channels.size) and len(ELEMENTWISE[name]) == 0:
            followed = channels.shifted(f"{name}(0) is not 0")
        else:
            followed = self._unknown(name, tensors)
        self._set(result, followed)

    def _convolution(self, args: Sequence[Any], channels: Channels | None, out: Tensor) -> Channels | None:
        weight, transposed, groups = args[1], args[6], args[8]
        name, module = self._modules.get(id(weight), ("", None))
        if channels is not None:
            self._use(channels)
        if transposed or not isinstance(module, nn.Conv2d):
            if channels is not None and groups > 1:
                channels.block("a grouped convolution uses its channels")
            return Channels(
                (self._new_node(out.shape[1], frozenset(), "a layer that is no Conv2d makes its channels"),)
            )
        depthwise = groups == module.in_channels == module.out_channels and groups > 1
        kind = "dense" if groups == 1 else "depthwise" if depthwise else "grouped"
        macs = out[0].numel() * weight[0].numel()
        conv = self.trace.convs.setdefault(name, TracedConv(name, kind, channels))
        conv.macs += macs
        if kind == "grouped":
            reason = f"grouped convolution {name} ({groups} groups)"
            if channels is not None:
                channels.block(f"{reason} uses its channels")
            return Channels((self._new_node(out.shape[1], frozenset((name,)), f"{reason} makes its channels"),))
        if kind == "dense":
            node = self._new_node(out.shape[1], frozenset((name,)))
            earlier = next((known for known in self.trace.nodes if known.sources == node.sources), node)
            earlier.join(node)
            return Channels((node,))
        if channels is None or channels.node is None:
            if channels is not None:
                channels.block(f"depthwise convolution {name} uses several layers' channels")
            self.trace.visit(name, None)
            return Channels((self._new_node(out.shape[1], frozenset((name,)), "its inputs could not be followed"),))
        self.trace.visit(name, channels)
        if name not in channels.node.followers:
            channels.node.followers.append(name)
        return channels

    def _batch_norm(self, channels: Channels, args: Sequence[Any]) -> Channels:
        known = next((self._modules[id(value)] for value in args[1:] if id(value) in self._modules), None)
        if known is None or not isinstance(known[1], _BatchNorm):
            channels.block("an unknown BatchNorm uses its channels")
            return channels.shifted("the BatchNorm that follows is no module")
        self.trace.visit(known[0], channels)
        offset = 0
        for node in channels.nodes:
            if (known[0], offset) not in node.norms:
                node.norms.append((known[0], offset))
            offset += node.size
        if known[1].weight is None:
            return channels.shifted(f"BatchNorm {known[0]} has no scale and shift that could be zeroed")
        return channels.cleared()

    def _lost_norm(self, name: str, args: Sequence[Any], tensors: list[Tensor]) -> Channels | None:
        for value in args[1:]:
            if id(value) in self._modules:
                self.trace.visit(self._modules[id(value)][0], None)
                break
        return self._unknown(name, tensors)

    def _elementwise(self, name: str, args: Sequence[Any], tensors: list[Tensor]) -> Channels | None:
        product = name in ("mul", "div")
        operands = [self._known.get(id(value)) if isinstance(value, Tensor) else None for value in args[:2]]
        first, second = operands
        if first is not None and second is not None:
            # An attention map of one channel over all channels of the other operand.
            if product and 1 in (first.size, second.size) and first.size != second.size:
                wide, narrow = (first, second) if second.size == 1 else (second, first)
                narrow.block("it scales all channels of another layer")
                self._use(narrow)
                return wide
            if product:
                self._note_gates(first, second)
                self._note_gates(second, first)
            elif name == "add":
                self.trace.note_shortcut(first, second)
                self.trace.note_shortcut(second, first)
            both = joined(first, second, product)
            if both is not None:
                self.trace.nodes += [node for node in both.nodes if node not in self.trace.nodes]
            return both
        channels = first if first is not None else second
        if channels is None or any(id(value) in self._lost for value in tensors):
            return self._unknown(name, tensors)
        if product and not (name == "div" and first is None):
            return channels
        other = args[1] if first is not None else args[0]
        return channels if isinstance(other, (int, float)) and other == 0 else channels.shifted("a constant is added")

    def _note_gates(self, scaled: Channels, gate: Channels) -> None:
        self.trace.gates |= set(gate.inexact) - scaled.sources

    def _concatenation(self, args: Sequence[Any], out: Tensor) -> Channels | None:
        parts, dim = args[0], (args[1] if len(args) > 1 else 0) % out.ndim
        known = [self._known.get(id(part)) for part in parts]
        if dim != 1 or any(id(part) in self._lost for part in parts):
            return self._unknown("cat", list(parts))
        nodes: list[ChannelNode] = []
        inexact: dict[str, str] = {}
        for part, channels in zip(parts, known, strict=True):
            if channels is None:
                nodes.append(self._new_node(part.shape[1], frozenset(), "constant channels meet it"))
            else:
                nodes += channels.nodes
                inexact.update(channels.inexact)
        nonzero = next((channels.nonzero for channels in known if channels is not None and channels.nonzero), "")
        return Channels(tuple(nodes), inexact, nonzero)

    def _split(self, channels: Channels, parts: Sequence[Tensor], args: Sequence[Any]) -> None:
        """Split at the borders of the nodes, or give up."""
        if parts[0].shape[1] == channels.size:  # along another dimension
            for part in parts:
                self._set(part, channels)
            return
        left = list(channels.nodes)
        for part in parts:
            own: list[ChannelNode] = []
            while left and sum(node.size for node in own) < part.shape[1]:
                own.append(left.pop(0))
            if sum(node.size for node in own) != part.shape[1]:
                channels.block("its channels are split")
                self._use(channels)
                for lost in parts:
                    self._set(lost, None)
                return
            self._set(part, Channels(tuple(own), channels.inexact, channels.nonzero))

    def _unknown(self, name: str, tensors: list[Tensor]) -> Channels | None:
        """Give up following what goes in; returns None, as nothing is known of what comes out."""
        for value in tensors:
            if channels := self._known.get(id(value)):
                self._use(channels)
                flattened = name in ("view", "_unsafe_view", "reshape", "flatten") and value.ndim == 4
                if name not in LINEAR and not flattened:
                    channels.block(f"operator {name} uses its channels")
        return None

    def _use(self, channels: Channels) -> None:
        """The channels arrive at a layer that sums over them."""
        for name, reason in channels.inexact.items():
            self.trace.inexact.setdefault(name, reason)
        if channels.nonzero:
            for node in channels.nodes:
                node.inexact = node.inexact or channels.nonzero

    def _new_node(self, size: int, sources: frozenset[str], blocked: str = "") -> ChannelNode:
        node = ChannelNode(size, sources, blocked=blocked)
        self.trace.nodes.append(node)
        return node

    def _meet(self, value: Tensor) -> None:
        """A tensor that no operator made may be one that is known, in the same memory."""
        if self._memory.note(value):
            for other in self._memory.others(value):
                if id(other) in self._known and same_place(value, other):
                    self._set(value, self._known[id(other)])

    def _spread(self, target: Tensor, before: Channels | None) -> None:
        """What is written through one tensor changes all others in its memory."""
        after = self._known.get(id(target))
        for other in self._memory.others(target):
            known = self._known.get(id(other))
            if same_place(target, other) and after is not None:
                self._set(other, after)
            elif known is not None and not (after is not None and after is before):
                self._use(known)
                known.block("a part of their memory is written to")
                self._set(other, None)

    def _set(self, tensor: Any, channels: Channels | None) -> None:
        for value in flat(tensor):
            if isinstance(value, Tensor):
                self._alive.append(value)
                self._memory.note(value)
                self._known.pop(id(value), None)
                self._lost.discard(id(value))
                if channels is None:
                    self._lost.add(id(value))
                else:
                    self._known[id(value)] = channels


def trace_channels(network: nn.Module, image: Tensor) -> Trace:
    """Follow the channels of a network through one forward pass.

    Args:
        network (nn.Module): The network; called as ``network(image)`` in evaluation mode, without gradients.
        image (Tensor): Input, (B, C, H, W).

    Returns:
        Trace: What was learned. A pass that fails after all convolutions were met (for example in a classifier that
        wants another image size) counts as complete.
    """
    convs = {name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    with evaluating(network), torch.no_grad(), torch.random.fork_rng(devices=_devices(image)):
        tracer = Tracer(network, image)
        try:
            with tracer:
                outputs = _returned(network(image))
        except Exception:
            if convs - set(tracer.trace.convs):
                raise
            outputs = []
        trace = tracer.finish(outputs)
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
