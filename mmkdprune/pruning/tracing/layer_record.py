"""What is known of the channels of a traced tensor: which convolutions made them, and what they are tied to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile


@dataclass(eq=False)
class ChannelNode:
    """Channels that belong together index by index: the output of a convolution, or a sum of such outputs.

    Nodes whose channels meet in an elementwise operation form one set (union-find). Masks of ``group`` coupling are for
    such a set, masks of ``independent`` coupling for the nodes that come from one convolution alone.

    Attributes:
        size: Number of channels.
        sources: Names of the convolutions whose outputs are summed or multiplied here.
        norms: BatchNorms that see these channels: (module name, index of the first channel).
        followers: Names of depthwise convolutions that see them.
        blocked: Why the set cannot be pruned as a whole; empty if it can.
        inexact: Why zeros of the whole set do not stay zeros; empty if they do.
    """

    size: int
    sources: frozenset[str] = frozenset()
    norms: list[tuple[str, int]] = field(default_factory=list)
    followers: list[str] = field(default_factory=list)
    blocked: str = ""
    inexact: str = ""
    parent: ChannelNode | None = None

    def root(self) -> ChannelNode:
        """Representative of the set."""
        node = self
        while node.parent is not None:
            node = node.parent
        return node

    def join(self, other: ChannelNode) -> None:
        """Make both sets one."""
        first, second = self.root(), other.root()
        if first is not second:
            second.parent = first

    def block(self, reason: str) -> None:
        """Note why the set cannot be pruned as a whole; the first reason stays."""
        self.blocked = self.blocked or reason


@dataclass(frozen=True)
class Channels:
    """Channels of a tensor, dimension 1: consecutive nodes (several after a concatenation).

    Attributes:
        nodes: The nodes, in order.
        inexact: Convolutions whose zero filters do not give zeros here, with the reason.
        zero: Whether zeros of all sources together give zeros here; empty or the reason why not.
    """

    nodes: tuple[ChannelNode, ...]
    inexact: dict[str, str] = field(default_factory=dict)
    nonzero: str = ""

    @property
    def size(self) -> int:
        """Number of channels."""
        return sum(node.size for node in self.nodes)

    @property
    def widths(self) -> list[int]:
        """Number of channels of each node."""
        return [node.size for node in self.nodes]

    @property
    def sources(self) -> frozenset[str]:
        """All convolutions that the channels come from."""
        return frozenset().union(*(node.sources for node in self.nodes))

    @property
    def node(self) -> ChannelNode | None:
        """The only node, or None if there are several."""
        return self.nodes[0] if len(self.nodes) == 1 else None

    def shifted(self, reason: str) -> Channels:
        """After an operation that does not map 0 to 0."""
        inexact = {**dict.fromkeys(self.sources, reason), **self.inexact}
        return Channels(self.nodes, inexact, self.nonzero or reason)

    def cleared(self) -> Channels:
        """After a BatchNorm, which zeros its channels where the mask says so."""
        return Channels(self.nodes)

    def block(self, reason: str) -> None:
        """Block the sets of all nodes."""
        for node in self.nodes:
            node.block(reason)


@dataclass
class TracedConv:
    """A convolution as it was met in the forward pass.

    Attributes:
        name: Module name.
        kind: ``'dense'``, ``'depthwise'`` or ``'grouped'``.
        inputs: Its input channels; None if they could not be followed.
        macs: Multiply-accumulate operations of one image, all calls together.
        shortcut: Whether it is the projection shortcut of a residual block.
    """

    name: str
    kind: str
    inputs: Channels | None
    macs: int = 0
    shortcut: bool = False


@dataclass
class Trace:
    """What was learned from one forward pass.

    Attributes:
        convs: All convolutions, in the order of their first use.
        nodes: All channel nodes, in the order of their appearance.
        image: The node of the input image.
        gates: Convolutions whose output, through a sigmoid or the like, scales other channels.
        inexact: Convolutions whose own zero filters do not give zeros where the output is used, with the reason.
        outputs: Convolutions whose output reaches an output of the network through no other layer and no norm.
        uses: Convolutions whose output is something else than features for other layers, with what it is.
        unread: Convolutions whose output neither reaches another layer nor an output.
        of_model: Whether the whole model was run, not only the network in it.
        failure: Why the channels could not be followed; the order of registration tells of them then.
        unmet: Names of convolutions that the forward pass did not use.
        visits: For every BatchNorm and depthwise convolution, the different channels that it was used on; None where
            they could not be followed.
        scripted: Names of TorchScript parts, which are left alone.
        image_shape: (B, C, H, W) of what the network was run on; None if not it alone was run.
    """

    convs: dict[str, TracedConv] = field(default_factory=dict)
    nodes: list[ChannelNode] = field(default_factory=list)
    image: ChannelNode = field(default_factory=lambda: ChannelNode(0))
    gates: set[str] = field(default_factory=set)
    inexact: dict[str, str] = field(default_factory=dict)
    outputs: set[str] = field(default_factory=set)
    uses: dict[str, str] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)
    of_model: bool = False
    failure: str = ""
    unmet: list[str] = field(default_factory=list)
    visits: dict[str, list[Channels | None]] = field(default_factory=dict)
    scripted: list[str] = field(default_factory=list)
    image_shape: tuple[int, ...] | None = None

    def visit(self, layer: str, channels: Channels | None) -> None:
        """Note that a layer with one value per channel is used on these channels; on all of them a mask acts alike."""
        visits = self.visits.setdefault(layer, [])
        for earlier in visits:
            if earlier is not None and channels is not None and earlier.widths == channels.widths:
                for one, other in zip(earlier.nodes, channels.nodes, strict=True):
                    one.join(other)
                continue
            for known in (earlier, channels):
                if known is not None:
                    known.block(f"{layer} is also used on other channels")
        if channels not in visits:
            visits.append(channels)

    def note_shortcut(self, short: Channels, long: Channels) -> None:
        """A projection shortcut takes the input that the other operand had two or more convolutions ago."""
        if short.node is None or long.node is None or len(short.node.sources) != 1:
            return
        conv = self.convs[next(iter(short.node.sources))]
        start = conv.inputs.node if conv.inputs is not None else None
        for source in long.node.sources - short.node.sources:
            # An identity shortcut leads back to the other operand itself.
            inputs = list(takewhile(lambda node: node is not short.node, self._inputs_upwards(source)))
            conv.shortcut = conv.shortcut or start in inputs[1:]

    def _inputs_upwards(self, conv: str) -> Iterator[ChannelNode]:
        """What a convolution reads, then what the convolution reads that made it, and so on to where several meet.

        It ends, as only the first use of a convolution counts, which what it makes comes after.
        """
        while (inputs := self.convs[conv].inputs) is not None and inputs.node is not None:
            yield inputs.node
            if len(inputs.node.sources) != 1:
                return
            (conv,) = inputs.node.sources


def joined(first: Channels, second: Channels, product: bool) -> Channels | None:
    """Channels of an elementwise sum or product, whose operands' channels are tied from then on.

    Args:
        first: Channels of one operand.
        second: Channels of the other.
        product: Whether a zero of either operand makes the result zero.

    Returns:
        The channels, or None if the nodes of the operands do not lie side by side; all of them are blocked then.
    """
    if [node.size for node in first.nodes] != [node.size for node in second.nodes]:
        for channels in (first, second):
            channels.block("its channels meet others at shifted indices")
        return None
    nodes = tuple(_met(one, other) for one, other in zip(first.nodes, second.nodes, strict=True))
    inexact = {**first.inexact, **second.inexact}
    if product:  # a source's zeros pass through either operand
        exact = (first.sources - set(first.inexact)) | (second.sources - set(second.inexact))
        inexact = {name: reason for name, reason in inexact.items() if name not in exact}
    nonzero = (first.nonzero and second.nonzero) if product else (first.nonzero or second.nonzero)
    return Channels(nodes, inexact, nonzero)


def _met(one: ChannelNode, other: ChannelNode) -> ChannelNode:
    if one is other:
        return one
    node = ChannelNode(one.size, one.sources | other.sources)
    for operand in (one, other):
        operand.join(node)
    return node


def sets_of(nodes: Iterable[ChannelNode]) -> list[list[ChannelNode]]:
    """Nodes by the set they belong to, in order of appearance."""
    sets: dict[int, list[ChannelNode]] = {}
    for node in nodes:
        sets.setdefault(id(node.root()), []).append(node)
    return list(sets.values())
