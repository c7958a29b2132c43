"""What compact networks cost, by how many filters of each unit are masked, without making them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .checks import check_count, make_images
from .compaction.costs import LayerCosts
from .compaction.equality import Comparison
from .compaction.plan import Plan, fingerprints
from .compaction.removal import ChannelClasses, removable, take_back_for_shape
from .compaction.surgery import apply_plan, skeleton
from .filter_pruner import FilterPruner
from .forward import run_deployable
from .global_ranking import most_masked
from .modes import evaluating
from .tracing.channel_record import Dim
from .tracing.scope import IMAGE_SIZES, images_to_try, known_channels
from .units import apply_masks


class Cost(NamedTuple):
    """What a network costs.

    Attributes:
        macs: Multiply-accumulate operations of one image.
        params: Number of parameters.
    """

    macs: float
    params: float


class CompactCosts:
    """What compact networks cost, by how many filters of each unit are masked.

    Args:
        pruner (FilterPruner): Of the dense network; gives the units.
        images (Tensor): (B, C, H, W).
        divisor (int): As for :func:`~mmkdprune.pruning.compact`.
    """

    def __init__(self, pruner: FilterPruner, images: Tensor, divisor: int) -> None:
        self.network, self.part, self.units, self.divisor = pruner.network, pruner.scope, pruner.units, divisor
        self.images = images
        self.most = np.array([most_masked(unit.size, pruner.min_keep, divisor) for unit in self.units])
        probe = copy.deepcopy(self.network)
        for unit, number in zip(self.units, self.most.tolist(), strict=True):
            mask = torch.arange(unit.size, device=unit.pruned.device) < number
            masked = replace(unit, pruned=mask, hard=mask, hard_count=number, pruned_count=number)
            apply_masks(masked, probe, 0.0, "hard_only")
        record = Comparison(probe, run_deployable, images, check=False).record
        self._classes = ChannelClasses(record)
        self._removable = removable(self._classes)
        self._unit, self._place = self._owners()
        self._layers = LayerCosts(self.network, images, run_deployable)
        self.before = self._cost(np.zeros(len(self._removable), dtype=bool))

    def of(self, masked: np.ndarray) -> Cost:
        """Cost of the compact network.

        Args:
            masked (np.ndarray): Number of masked filters of every unit, (U,).
        """
        return self._cost(self._gone(masked))

    def network_with(self, masked: np.ndarray) -> nn.Module:
        """The compact network itself, of the first filters of every unit having been masked.

        Args:
            masked (np.ndarray): As for :meth:`of`.

        Returns:
            nn.Module: To be run, not to be trained: what stays whole is shared with the dense network.
        """
        gone = self._gone(masked)
        layers: dict[str, dict[str, dict]] = {}
        for dim, labels in self._classes.dims.items():
            if gone[labels].any():
                entry = {"of": len(labels), "kept": np.flatnonzero(~gone[labels]).tolist()}
                layers.setdefault(dim.layer, {})[dim.side] = entry
        return apply_plan(skeleton(self.network), Plan(layers, fingerprints(self.network), divisor=self.divisor))

    def _gone(self, masked: np.ndarray) -> np.ndarray:
        goes = self._removable & (self._unit >= 0) & (self._place < masked[self._unit])
        return take_back_for_shape(self._classes, goes, self.divisor)

    def _cost(self, gone: np.ndarray) -> Cost:
        left = {dim: 1 - gone[labels].mean() for dim, labels in self._classes.dims.items()}
        return Cost(*self._layers.left(left))

    def _owners(self) -> tuple[np.ndarray, np.ndarray]:
        """Unit and place in it of every class of channels; -1 where there is none."""
        owner = np.full(len(self._removable), -1)
        place = np.zeros(len(self._removable), dtype=int)
        for index, unit in enumerate(self.units):
            for name in unit.members:
                labels = self._classes.dims.get(Dim(name, "out"))
                if labels is not None and len(labels) == unit.size:
                    owner[labels], place[labels] = index, np.arange(unit.size)
        return owner, place


def costs_of(
    model: nn.Module,
    round_to: int,
    min_keep: int = 1,
    example_input: Tensor | Sequence[int] | None = None,
    **selection: Any,
) -> CompactCosts:
    """Follow the channels of a model, and count what its compact forms would cost.

    Args:
        model (nn.Module): The dense model; unchanged.
        round_to (int): As for :func:`~mmkdprune.pruning.solve_budget`, like the other arguments.
        min_keep (int): Fewest filters of a layer.
        example_input (Tensor | Sequence[int], optional): Images, or their shape.
        **selection (Any): Which layers are pruned.

    Raises:
        ValueError: If nothing can be pruned, or ``round_to`` is larger than every layer.
    """
    check_count("round_to", round_to, 1)
    pruner = FilterPruner(
        model, 0.0, coupling="group", min_keep=min_keep, round_to=round_to, example_input=example_input, **selection
    )
    largest = max(unit.size for unit in pruner.units)
    if round_to > largest:  # narrower layers than that stay as they are
        raise ValueError(f"round_to={round_to} is larger than every layer that is pruned (at most {largest} filters)")
    return CompactCosts(pruner, images_to_count(pruner, model, example_input), round_to)


def images_to_count(pruner: FilterPruner, model: nn.Module, example_input: Tensor | Sequence[int] | None) -> Tensor:
    """The example, or zeros of the largest usual size on which the pruned part runs; one image.

    The number of channels is that with which the pruner has followed them.

    Args:
        pruner (FilterPruner): Of the model.
        model (nn.Module): The whole model.
        example_input (Tensor | Sequence[int], optional): Images or their shape.

    Raises:
        ValueError: If the network runs on none of them.
    """
    network = pruner.network
    if example_input is not None:
        return make_images("example_input", example_input, network)[:1]
    sizes = sorted(IMAGE_SIZES, reverse=True)
    if (known := pruner.image_shape) is not None:
        # another size than the usual ones was given to the pruner; a pass that told the channels may have failed later
        given = [known[1:]] if known[2] not in sizes or known[2] != known[3] else []
        shapes = [*given, *((known[1], size, size) for size in sizes)]
        tried = [make_images("example_input", shape, network) for shape in shapes]
    else:
        first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
        tried = images_to_try(first, known_channels(network, model), sizes)
    failure: Exception | None = None
    for images in tried:
        try:
            with evaluating(network), torch.no_grad():
                run_deployable(network, images)
        except Exception as error:
            failure = failure or error
        else:
            return images
    raise ValueError(
        f"{type(network).__name__} could not be run to count its operations ({failure}): give example_input, a tensor "
        "that it takes, or its shape"
    )
