"""Numbers of channels that modules keep as attributes, and what they become when layers inside are made smaller.

Blocks that build layers later on, as RepVGG's and MobileOne's do in ``switch_to_deploy``, take their sizes from such
attributes, and so does code that reshapes by them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..tracing.ownership import is_convolution

Changes = dict[str, dict[str, tuple[Any, Any]]]

_WIDTH = re.compile(r"(channels?|planes|dims?|features?|num_parameters)$")
# Nominal sizes, from which widths are multiplied out when a network is built.
_NOMINAL = re.compile(r"^_?base_")
_READ = re.compile(r"(^|_)(in|input)_?(channels?|planes|dims?|features?)$")
_MADE = re.compile(r"(^|_)(out|output|feat)_?(channels?|planes|dims?|features?)$")


@dataclass
class Widths:
    """Numbers of channels at the borders of composed modules, as a pass met them.

    Attributes:
        read: Of the first tensor that goes in, by module name.
        made: Of the last tensor that comes out.
    """

    read: dict[str, int] = field(default_factory=dict)
    made: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Sizes:
    """Numbers of channels of one layer.

    Attributes:
        read: That it reads; of a norm, those that it has.
        made: That it makes; likewise.
        groups: Of a convolution; else 0.
        is_norm: Whether it is a norm, which makes as many as it reads.
    """

    read: int
    made: int
    groups: int
    is_norm: bool = False


def sizes_of_layers(network: nn.Module) -> dict[str, Sizes]:
    """Sizes of all layers that can be made smaller, by name."""
    sizes = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            sizes[name] = Sizes(module.in_features, module.out_features, 0)
        elif is_convolution(module):
            sizes[name] = Sizes(module.in_channels, module.out_channels, module.groups)
        elif isinstance(number := getattr(module, "num_features", None), int) and not list(module.children()):
            sizes[name] = Sizes(number, number, 0, is_norm=True)
    return sizes


def planned_sizes(sizes: Mapping[str, Sizes], layers: Mapping[str, Mapping[str, Any]]) -> dict[str, Sizes]:
    """Sizes of layers when a plan's entries have been carried out.

    Args:
        sizes: Of :func:`sizes_of_layers`, for the dense network.
        layers: As :attr:`.plan.Plan.layers`.
    """
    planned = dict(sizes)
    for name, entry in layers.items():
        if name not in sizes:
            continue
        old = sizes[name]
        made = len(entry["out"]["kept"]) if "out" in entry else old.made
        read = len(entry["in"]["kept"]) if "in" in entry else old.read
        is_depthwise = 1 < old.groups == old.read == old.made
        follows = is_depthwise or old.is_norm
        planned[name] = Sizes(made if follows else read, made, made if is_depthwise else old.groups, old.is_norm)
    return planned


def kept_sizes(network: nn.Module) -> dict[str, dict[str, Any]]:
    """Attributes of composed modules that seem to say how many channels something has, by module and name."""
    kept = {}
    for name, module in network.named_modules():
        if not list(module.children()) or is_convolution(module) or isinstance(module, torch.jit.ScriptModule):
            continue
        found = {attribute: value for attribute, value in vars(module).items() if _is_size(attribute, value)}
        if found:
            kept[name] = found
    return kept


def changed_sizes(
    kept: Mapping[str, Mapping[str, Any]],
    before: Mapping[str, Sizes],
    after: Mapping[str, Sizes],
    borders: tuple[Widths, Widths] | None = None,
) -> Changes:
    """What attributes become when layers were made smaller.

    An attribute that is named after what goes into its module or comes out follows what a pass met there. Any other
    follows the layers inside that have as many channels; where these differ afterwards it is not clear which of them
    is meant, and the attribute stays.

    Args:
        kept: Of :func:`kept_sizes`, for the network before.
        before: Sizes of the layers before.
        after: Sizes of the same layers now.
        borders: What passes met at the borders of modules, before and now. Defaults to None: the layers alone decide.

    Returns:
        Changes: (before, after) by module and attribute, where they differ.
    """
    changes: Changes = {}
    for name, attributes in kept.items():
        prefix = f"{name}." if name else ""
        inside = [
            (sizes, after[layer]) for layer, sizes in before.items() if layer.startswith(prefix) and layer in after
        ]
        for attribute, value in attributes.items():
            new = _new_value(name, attribute, value, inside, borders)
            if new != value:
                changes.setdefault(name, {})[attribute] = (_plain(value), _plain(new))
    return changes


def set_sizes(network: nn.Module, changes: Mapping[str, Mapping[str, Any]]) -> bool:
    """Write changed sizes into a network's attributes, where they have the old value.

    Returns:
        bool: Whether any was written.
    """
    written = False
    for name, attributes in changes.items():
        module = network.get_submodule(name)
        for attribute, (before, after) in attributes.items():
            value = vars(module).get(attribute)
            if value is not None and _plain(value) == _plain(before):
                setattr(module, attribute, type(value)(after) if isinstance(value, tuple) else after)
                written = True
    return written


def _is_size(attribute: str, value: Any) -> bool:
    if not (_WIDTH.search(attribute) or attribute == "groups") or _NOMINAL.search(attribute):
        return False
    values = value if isinstance(value, (list, tuple)) else [value]
    return bool(values) and all(isinstance(one, int) and not isinstance(one, bool) and one > 1 for one in values)


def _new_value(
    name: str,
    attribute: str,
    value: Any,
    inside: list[tuple[Sizes, Sizes]],
    borders: tuple[Widths, Widths] | None,
) -> Any:
    if isinstance(value, (list, tuple)):
        new = [_of_layers(attribute, one, inside) for one in value]
        return value if None in new else type(value)(new)
    if borders is not None:
        first, now = borders
        for pattern, old, found in ((_READ, first.read, now.read), (_MADE, first.made, now.made)):
            if pattern.search(attribute) and old.get(name) == value and name in found:
                return found[name]
    return _of_layers(attribute, value, inside) or value


def _of_layers(attribute: str, value: int, inside: list[tuple[Sizes, Sizes]]) -> int | None:
    """What the layers inside make of a number; None if they have no such number or do not agree."""
    sides: tuple[Callable[[Sizes], int], ...] = (lambda sizes: sizes.read, lambda sizes: sizes.made)
    if attribute == "groups":
        sides = (lambda sizes: sizes.groups,)
    elif _READ.search(attribute):
        sides = sides[:1]
    elif _MADE.search(attribute):
        sides = sides[1:]
    found = {side(now) for side in sides for old, now in inside if side(old) == value}
    return found.pop() if len(found) == 1 else None


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value
