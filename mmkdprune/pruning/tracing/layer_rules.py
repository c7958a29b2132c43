"""Rules by which the channels of whole layers pass through PyTorch's operators; see :mod:`.layers`."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .layer_record import ChannelNode, Channels, Trace, TracedConv, joined
from .operators import BATCH_NORMS, ELEMENTWISE, GROUP_NORMS, LINEAR, SPLITS, keeps_channels, keeps_elements
from .watcher import UNTOUCHED, Call, Follower, Untouched


class LayerRules(Follower[Channels]):
    """Rules for single operators, by which channels and notes are made.

    Args:
        network (nn.Module): Whose parameters are met.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.trace = Trace()

    def convolution(self, call: Call, channels: Channels | None) -> Channels:
        """A convolution; a channel that it makes is one of a new node, unless it is depthwise."""
        weight, transposed, groups = call.args[1], call.args[6], call.args[8]
        width = call.result.shape[1]
        owner = self.owned.get(weight)
        if channels is not None:
            self.use(channels)
        if transposed or owner is None or not isinstance(owner.module, nn.Conv2d):
            if channels is not None and groups > 1:
                channels.block("a grouped convolution uses its channels")
            return self.made_by(None, width, "a layer that is no Conv2d makes its channels")
        name, module = owner.name, owner.module
        depthwise = groups == module.in_channels == module.out_channels and groups > 1
        kind = "dense" if groups == 1 else "depthwise" if depthwise else "grouped"
        conv = self.trace.convs.setdefault(name, TracedConv(name, kind, channels))
        conv.macs += call.result[0].numel() * weight[0].numel()
        if kind == "grouped":
            reason = f"grouped convolution {name} ({groups} groups)"
            if channels is not None:
                channels.block(f"{reason} uses its channels")
            return self.made_by(name, width, f"{reason} makes its channels")
        if kind == "dense":
            made = self.made_by(name, width)
            node = made.nodes[0]
            earlier = next((known for known in self.trace.nodes if known.sources == node.sources), node)
            earlier.join(node)
            return made
        return self._depthwise(name, channels, width)

    def _depthwise(self, name: str, channels: Channels | None, width: int) -> Channels:
        if channels is None or channels.node is None:
            if channels is not None:
                channels.block(f"depthwise convolution {name} uses several layers' channels")
            self.trace.visit(name, None)
            return self.made_by(name, width, "its inputs could not be followed")
        self.trace.visit(name, channels)
        if name not in channels.node.followers:
            channels.node.followers.append(name)
        return channels

    def batch_norm(self, call: Call, channels: Channels | None) -> Channels | None:
        """A BatchNorm, which has one value per channel."""
        owner = next((owner for value in call.args[1:] if (owner := self.owned.get(value)) is not None), None)
        if channels is None:
            if owner is not None:
                self.trace.visit(owner.name, None)
            return self.unknown(call)
        if owner is None or not isinstance(owner.module, _BatchNorm):
            channels.block("an unknown BatchNorm uses its channels")
            return channels.shifted("the BatchNorm that follows is no module")
        self.trace.visit(owner.name, channels)
        offset = 0
        for node in channels.nodes:
            if (owner.name, offset) not in node.norms:
                node.norms.append((owner.name, offset))
            offset += node.size
        if owner.module.weight is None:
            return channels.shifted(f"BatchNorm {owner.name} has no scale and shift that could be zeroed")
        return channels.cleared()

    def group_norm(self, call: Call, channels: Channels) -> Channels:
        """A norm over several channels."""
        kind = GROUP_NORMS[call.name]
        channels.block(f"{kind} mixes its channels")
        return channels.shifted(f"a zero channel changes the statistics of the {kind} that follows")

    def arithmetic(self, call: Call, channels: Channels | None) -> Channels | None:
        """A sum, difference, product or quotient of two operands."""
        product = call.name in ("mul", "div")
        first, second = (self.known(value) for value in call.args[:2])
        if first is not None and second is not None:
            return self._met(call.name, first, second)
        channels = first if first is not None else second
        if channels is None or any(self.is_lost(value) for value in call.tensors):
            return self.unknown(call)
        if product and not (call.name == "div" and first is None):
            return channels
        other = call.args[1] if first is not None else call.args[0]
        return channels if isinstance(other, (int, float)) and other == 0 else channels.shifted("a constant is added")

    def _met(self, name: str, first: Channels, second: Channels) -> Channels | None:
        product = name in ("mul", "div")
        # An attention map of one channel over all channels of the other operand.
        if product and 1 in (first.size, second.size) and first.size != second.size:
            wide, narrow = (first, second) if second.size == 1 else (second, first)
            narrow.block("it scales all channels of another layer")
            self.use(narrow)
            return wide
        for one, other in ((first, second), (second, first)):
            if product:
                self.trace.gates |= set(other.inexact) - one.sources
            elif name == "add":
                self.trace.note_shortcut(one, other)
        both = joined(first, second, product)
        if both is not None:
            self.trace.nodes += [node for node in both.nodes if node not in self.trace.nodes]
        return both

    def concatenation(self, call: Call, channels: Channels | None) -> Channels | None:
        """Nodes one after the other."""
        parts, dim = call.args[0], (call.args[1] if len(call.args) > 1 else 0) % call.result.ndim
        known = [self.known(part) for part in parts]
        if dim != 1 or any(self.is_lost(part) for part in parts):
            return self.unknown(call)
        nodes: list[ChannelNode] = []
        inexact: dict[str, str] = {}
        for part, one in zip(parts, known, strict=True):
            if one is None:
                nodes.append(self.new_node(part.shape[1], None, "constant channels meet it"))
            else:
                nodes += one.nodes
                inexact.update(one.inexact)
        nonzero = next((one.nonzero for one in known if one is not None and one.nonzero), "")
        return Channels(tuple(nodes), inexact, nonzero)

    def split(self, call: Call, channels: Channels) -> Untouched:
        """Split at the borders of the nodes, or give up."""
        parts: list[Tensor] = call.out
        if parts[0].shape[1] == channels.size:  # along another dimension
            for part in parts:
                self.set(part, channels)
            return UNTOUCHED
        left = list(channels.nodes)
        for part in parts:
            own: list[ChannelNode] = []
            while left and sum(node.size for node in own) < part.shape[1]:
                own.append(left.pop(0))
            if sum(node.size for node in own) != part.shape[1]:
                channels.block("its channels are split")
                self.use(channels)
                for lost in parts:
                    self.set(lost, None)
                return UNTOUCHED
            self.set(part, Channels(tuple(own), channels.inexact, channels.nonzero))
        return UNTOUCHED

    def other(self, call: Call, channels: Channels) -> Channels | None:
        """Operators that compute each channel from the same channel."""
        if keeps_channels(call.func, call.args, call.kwargs, channels.size, call.result):
            return channels
        if keeps_elements(call.name, call.args, channels.size) and not ELEMENTWISE[call.name]:
            return channels.shifted(f"{call.name}(0) is not 0")
        return self.unknown(call)

    def unknown(self, call: Call) -> Channels | None:
        """Give up following what goes in; a layer that sums over its channels leaves them as they are."""
        for value in call.tensors:
            if (channels := self.known(value)) is not None:
                self.use(channels)
                flattened = call.name in ("view", "_unsafe_view", "reshape", "flatten") and value.ndim == 4
                if call.name not in LINEAR and not flattened:
                    channels.block(f"operator {call.name} uses its channels")
        return None

    rules = {
        "convolution": convolution,
        "cat": concatenation,
        **dict.fromkeys(("add", "sub", "mul", "div"), arithmetic),
        **dict.fromkeys(BATCH_NORMS, batch_norm),
    }
    rules_of_one = {**dict.fromkeys(SPLITS, split), **dict.fromkeys(GROUP_NORMS, group_norm)}

    def use(self, channels: Channels) -> None:
        """The channels arrive at a layer that sums over them."""
        for name, reason in channels.inexact.items():
            self.trace.inexact.setdefault(name, reason)
        if channels.nonzero:
            for node in channels.nodes:
                node.inexact = node.inexact or channels.nonzero

    def made_by(self, conv: str | None, width: int, blocked: str = "") -> Channels:
        """New channels of a convolution, or of something else."""
        return Channels((self.new_node(width, conv, blocked),))

    def new_node(self, size: int, conv: str | None, blocked: str = "") -> ChannelNode:
        """A new node of the trace."""
        node = ChannelNode(size, frozenset() if conv is None else frozenset((conv,)), blocked=blocked)
        self.trace.nodes.append(node)
        return node
