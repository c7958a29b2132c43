"""Which convolutions are pruned, and which of them share a mask."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from .checks import check_number, check_patterns
from .tracing.layer_record import ChannelNode, Trace, TracedConv, sets_of
from .tracing.sharing import sharing_layers


@dataclass
class FilterGroup:
    """Convolutions that share one mask.

    Attributes:
        name: Name of the first convolution.
        size: Number of filters N.
        rate: Target pruning rate.
        members: Names of all convolutions, depthwise followers included.
        scored: Those whose filters are ranked.
        norms: BatchNorms behind them: (name, index of the first channel).
        inexact: Why zero filters do not stay zero channels; empty if they do.
    """

    name: str
    size: int
    rate: float
    members: list[str]
    scored: list[str]
    norms: list[tuple[str, int]] = field(default_factory=list)
    inexact: str = ""

    @property
    def gates(self) -> list[tuple[str, int]]:
        """BatchNorms whose scales together let all channels through or none.

        Behind a chain of depthwise convolutions the last one does; the others would only be undone by it. Empty where
        there are fewer BatchNorms than layers, so that some channels pass none.
        """
        if len(self.norms) < len(self.members):
            return []
        return self.norms[-1:] if len(self.scored) == 1 < len(self.members) else self.norms


@dataclass(frozen=True)
class Selection:
    """What to prune; the arguments of :class:`FilterPruner` of the same names."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    rate_map: Mapping[str, float] = field(default_factory=dict)
    coupling: str = "independent"
    prune_first: bool = True
    prune_last: bool = True
    prune_downsample: bool = False
    prune_outputs: bool = False


def find_scope(model: nn.Module, scope: str | None) -> tuple[str, nn.Module]:
    """Return name and module of the part that is pruned: ``backbone`` where there is one, else the whole model.

    Raises:
        ValueError: If the model has no module of that name.
    """
    if scope is None:
        scope = "backbone" if isinstance(getattr(model, "backbone", None), nn.Module) else ""
    try:
        return scope, model.get_submodule(scope)
    except AttributeError:
        children = ", ".join(name for name, _ in model.named_children())
        raise ValueError(f"scope {scope!r} is no module of {type(model).__name__}; its parts are: {children}") from None


class Patterns:
    """Regular expressions on module names, with or without the scope's own name in front.

    Args:
        field (str): Name of the argument, for messages.
        patterns (Sequence[str]): Matched with ``re.search``.
        scope (str): Name of the scope within the model.
        names (Sequence[str]): Candidates, relative to the scope.

    Raises:
        ValueError: If one of the patterns matches no candidate.
    """

    def __init__(self, field: str, patterns: Sequence[str], scope: str, names: Sequence[str]) -> None:
        self._patterns = check_patterns(field, patterns)
        self._prefix = f"{scope}." if scope else ""
        for pattern in self._patterns:
            if not any(self._matches(pattern, name) for name in names):
                shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
                raise ValueError(f"{field}: {pattern!r} matches none of the {len(names)} layers ({shown})")

    def _matches(self, pattern: str, name: str) -> bool:
        return bool(re.search(pattern, name) or re.search(pattern, self._prefix + name))

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def first(self, name: str) -> str | None:
        """First pattern that matches a name, or None."""
        return next((pattern for pattern in self._patterns if self._matches(pattern, name)), None)


def select_groups(
    trace: Trace, scope: str, rate: float, selection: Selection
) -> tuple[list[FilterGroup], dict[str, str]]:
    """Choose the convolutions and group them.

    Args:
        trace: What is known of the network's channels.
        scope: Name of the network within the model; patterns may contain it.
        rate: Pruning rate of layers that ``rate_map`` does not name.
        selection: What to prune.

    Returns:
        tuple[list[FilterGroup], dict[str, str]]: The groups in the order of the forward pass, and every convolution
        that is left alone with the reason.

    Raises:
        ValueError: If a pattern matches nothing, a rate is out of range, or nothing is left to prune.
    """
    names = [*trace.convs, *trace.unmet]
    wanted = Patterns("include", selection.include, scope, names)
    unwanted = Patterns("exclude", selection.exclude, scope, names)
    rates = Patterns("rate_map", list(selection.rate_map), scope, names)
    for key, value in selection.rate_map.items():
        check_number(f"rate_map[{key!r}]", value, 0, 1, open_high=True)
    skipped = dict.fromkeys(trace.unmet, "not met in the forward pass, or with a weight computed from its parameters")
    skipped |= dict.fromkeys(trace.scripted, "scripted (TorchScript): the layers in it are left alone")
    last = next((name for name in reversed(trace.convs) if trace.convs[name].kind == "dense"), None)
    for name, conv in trace.convs.items():
        reason = _reason_to_skip(trace, conv, selection, name == last)
        if not selection.prune_outputs and (not scope or trace.of_model):
            reason = reason or _result(trace, name)
        pattern = unwanted.first(name)
        if wanted and wanted.first(name) is None:
            reason = "not matched by include"
        elif pattern is not None:
            reason = f"exclude={pattern!r}"
        if reason:
            skipped[name] = reason

    def rate_of(name: str) -> float:
        own = rates.first(name)
        return rate if own is None else selection.rate_map[own]

    find = _coupled_groups if selection.coupling == "group" else _independent_groups
    groups = find(trace, skipped, rate_of)
    if not groups:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:6])
        advice = ""
        if trace.failure:
            advice = (
                f". No forward pass could be followed ({trace.failure}): pass example_input, images or their shape "
                "(C, H, W) that the network takes"
            )
        raise ValueError(f"nothing is left to prune with coupling={selection.coupling!r} ({reasons}){advice}")
    return groups, skipped


def _reason_to_skip(trace: Trace, conv: TracedConv, selection: Selection, is_last: bool) -> str:
    if conv.kind == "grouped":
        return "grouped convolution"
    if conv.name in trace.uses:
        return f"its output is no features but {trace.uses[conv.name]}"
    if conv.kind == "depthwise":
        return ""  # decided by the layer it follows
    if not selection.prune_first and conv.inputs is not None and trace.image in conv.inputs.nodes:
        return "prune_first=False"
    if not selection.prune_first and conv.inputs is None and conv.name == next(iter(trace.convs)):
        return "prune_first=False"
    if not selection.prune_last and is_last:
        return "prune_last=False"
    if selection.coupling == "independent":
        if conv.shortcut and not selection.prune_downsample:
            return "projection shortcut (prune_downsample=False)"
        if conv.name in trace.gates:
            return "its output is a gate on other channels"
    return ""


def _result(trace: Trace, name: str) -> str:
    """Why a convolution seems to make results of the model; empty if it does not."""
    if name in trace.outputs:
        return "an output of the model (prune_outputs=False)"
    if name not in trace.unread:
        return ""
    what = "no BatchNorm was registered behind it" if trace.failure else "no other layer reads its output"
    return f"{what}, so that it may be a result of the model (prune_outputs=False)"


def _independent_groups(trace: Trace, skipped: dict[str, str], rate_of: Callable[[str], float]) -> list[FilterGroup]:
    groups = []
    own_nodes: dict[str, list[ChannelNode]] = {}
    for node in trace.nodes:
        if len(node.sources) == 1:
            own_nodes.setdefault(next(iter(node.sources)), []).append(node)
    sharing = sharing_layers(trace, skipped)
    followers: set[str] = set()
    done: set[str] = set()
    for name, conv in trace.convs.items():
        if conv.kind != "dense" or name in skipped or name in done:
            continue
        sources = [other for other in trace.convs if other in sharing.get(name, {name})]
        done.update(sources)
        nodes = [node for source in sources for node in own_nodes[source]]
        own = [follower for node in nodes for follower in node.followers if follower not in skipped]
        members = list(dict.fromkeys([*sources, *own]))
        followers.update(own)
        norms = list(dict.fromkeys(norm for node in nodes for norm in node.norms))
        inexact = next((trace.inexact[source] for source in sources if source in trace.inexact), "")
        groups.append(
            FilterGroup(name, nodes[0].size, _common_rate(sources, rate_of), members, sources, norms, inexact)
        )
    for name, conv in trace.convs.items():
        if conv.kind == "depthwise" and name not in followers:
            skipped.setdefault(name, "depthwise convolution behind channels that have no mask of their own")
    return groups


def _common_rate(names: Sequence[str], rate_of: Callable[[str], float]) -> float:
    rates = {name: rate_of(name) for name in names}
    if len(set(rates.values())) > 1:
        raise ValueError(f"rate_map gives different rates to layers that share a mask: {rates}")
    return next(iter(rates.values()))


def _coupled_groups(trace: Trace, skipped: dict[str, str], rate_of: Callable[[str], float]) -> list[FilterGroup]:
    groups = []
    for nodes in sets_of(trace.nodes):
        sources = frozenset().union(*(node.sources for node in nodes))
        followers = [follower for node in nodes for follower in node.followers]
        members = [name for name in trace.convs if name in sources or name in followers]
        if not members:
            continue
        reason = next((node.blocked for node in nodes if node.blocked), "")
        # Shortcuts are members of their group whatever the patterns say.
        left_out = [name for name in members if name in skipped and not trace.convs[name].shortcut]
        if left_out:
            reason = f"{left_out[0]} of its group is left out ({skipped[left_out[0]]})"
        rates = {name: rate_of(name) for name in members}
        if not reason and len(set(rates.values())) > 1:
            raise ValueError(f"rate_map gives different rates to layers that share a mask in group coupling: {rates}")
        for name in members:
            if reason:
                skipped.setdefault(name, reason)
            else:
                skipped.pop(name, None)
        if not reason:
            norms = list(dict.fromkeys(norm for node in nodes for norm in node.norms))
            inexact = next((node.inexact for node in nodes if node.inexact), "")
            size, rate = nodes[0].size, rates[members[0]]
            groups.append(FilterGroup(members[0], size, rate, members, members, norms, inexact))
    order = list(trace.convs)
    return sorted(groups, key=lambda group: order.index(group.name))
