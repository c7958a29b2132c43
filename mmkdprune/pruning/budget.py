"""From what a network may cost to the pruning rates that leave so much of it."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mmkdprune.arguments import checked

from .checks import check_choice, check_count, check_number, make_images
from .compaction.costs import LayerCosts
from .compaction.equality import Comparison
from .compaction.removal import ChannelClasses, removable, take_back_for_shape
from .filter_pruner import FilterPruner, masked_count
from .forward import run_deployable
from .modes import evaluating
from .tracing.channel_record import Dim
from .tracing.scope import IMAGE_SIZES, image_channels, known_channels
from .units import Unit, apply_masks

QUANTITIES = ("macs", "params")
# Widths are multiples of this unless a budget says otherwise: kernels work on so many channels at once.
ROUND_TO = 8
# Largest relative distance from the target.
TOLERANCE = 0.02
_STEPS = 60


class Cost(NamedTuple):
    """What a network costs.

    Attributes:
        macs: Multiply-accumulate operations of one image.
        params: Number of parameters.
    """

    macs: float
    params: float


@dataclass
class Budget:
    """Rates that meet a target, and what they leave.

    Attributes:
        rate: Share of all filters that is removed.
        rates: Share that is removed by layer, of all layers of every unit.
        kept: Number of filters before and after, by unit.
        before: Of the pruned part as it is.
        after: Of its compact form.
        part: Name of the pruned part; empty for the whole model.
    """

    rate: float
    rates: dict[str, float]
    kept: dict[str, tuple[int, int]]
    before: Cost
    after: Cost
    part: str

    @property
    def rate_map(self) -> dict[str, float]:
        """``rates`` as the argument of a pruner."""
        prefix = rf"({re.escape(self.part)}\.)?" if self.part else ""
        return {rf"^{prefix}{re.escape(name)}$": rate for name, rate in self.rates.items()}

    def line(self) -> str:
        """One line for a log."""
        parts = [
            f"{number / scale:.4g} {unit} of {name} ({number / whole:.1%} of {whole / scale:.4g} {unit})"
            for name, number, whole, scale, unit in (
                ("multiply-accumulates", self.after.macs, self.before.macs, *_scale(self.before.macs)),
                ("parameters", self.after.params, self.before.params, *_scale(self.before.params)),
            )
        ]
        return f"{self.part or 'the model'}, compact, will have {' and '.join(parts)}; {self.rate:.1%} of filters go"


@checked
def solve_budget(
    model: nn.Module,
    target: Mapping[str, float],
    round_to: int = ROUND_TO,
    min_keep: int = 1,
    example_input: Tensor | Sequence[int] | None = None,
    **selection: Any,
) -> Budget:
    """Find pruning rates with which the compact network meets a target.

    One rate for all layers, as in the papers, whose widths are multiples of ``round_to``; where these steps are too
    coarse, single layers get one step more or less. What goes with a filter is followed through one forward pass, so
    that BatchNorms, depthwise convolutions and readers of several layers count as they do in the compact network.

    Args:
        model (nn.Module): The dense model; unchanged.
        target (Mapping[str, float]): ``dict(macs=0.5)`` or ``dict(params=0.5)``: the share in (0, 1] of the pruned part
            that is to be left.
        round_to (int): Numbers of filters that stay are multiples of this. Defaults to 8.
        min_keep (int): Fewest filters of a layer. Defaults to 1.
        example_input (Tensor | Sequence[int], optional): Images (B, C, H, W), or their shape (C, H, W) or (B, C, H, W),
            of which the operations are counted. Defaults to zeros of a usual size.
        **selection (Any): ``scope, include, exclude, prune_first, prune_last, prune_outputs`` of :class:`FilterPruner`.

    Returns:
        Budget: Rates, and what they leave.

    Raises:
        ValueError: If the target is no single share in (0, 1], cannot be reached, or not within 2 %; the message names
            the smallest share that is left, or the nearest one.
    """
    quantity, share = check_target(target)
    check_count("round_to", round_to, 1)
    pruner = FilterPruner(
        model, 0.0, coupling="group", min_keep=min_keep, round_to=round_to, example_input=example_input, **selection
    )
    sizes = [unit.size for unit in pruner.units]
    if round_to > max(sizes):  # narrower layers than that stay as they are
        raise ValueError(
            f"round_to={round_to} is larger than every layer that is pruned (at most {max(sizes)} filters)"
        )
    costs = CompactCosts(pruner, _images(pruner.network, model, example_input), round_to)
    masked = _Search(costs, quantity, share).solve()
    numbers = list(zip(pruner.units, masked.tolist(), strict=True))
    rates = {name: number / unit.size for unit, number in numbers for name in unit.members}
    kept = {unit.name: (unit.size, unit.size - number) for unit, number in numbers}
    return Budget(int(masked.sum()) / sum(sizes), rates, kept, costs.before, costs.of(masked), pruner.scope)


def check_target(target: Any) -> tuple[str, float]:
    """Return quantity and share of a target.

    Args:
        target (Any): As for :func:`solve_budget`.

    Raises:
        ValueError: It is not one share in (0, 1] of a known quantity.
    """
    if not isinstance(target, Mapping) or len(target) != 1:
        raise ValueError(f"target takes one of {', '.join(QUANTITIES)}, such as dict(macs=0.5), got {target!r}")
    ((quantity, share),) = target.items()
    check_choice("target", quantity, QUANTITIES)
    check_number(f"target.{quantity}", share, 0, 1, open_low=True)
    return quantity, float(share)


class CompactCosts:
    """What compact networks cost, by how many filters of each unit are masked.

    Args:
        pruner (FilterPruner): Of the dense network; gives the units.
        images (Tensor): (B, C, H, W).
        divisor (int): As for :func:`~mmkdprune.pruning.compact`.
    """

    def __init__(self, pruner: FilterPruner, images: Tensor, divisor: int) -> None:
        self.units, self.divisor = pruner.units, divisor
        self.most = np.array([self._most(unit, pruner.min_keep) for unit in self.units])
        probe = copy.deepcopy(pruner.network)
        for unit, number in zip(self.units, self.most.tolist(), strict=True):
            mask = torch.arange(unit.size, device=unit.pruned.device) < number
            masked = replace(unit, pruned=mask, hard=mask, hard_count=number, pruned_count=number)
            apply_masks(masked, probe, 0.0, "hard_only")
        record = Comparison(probe, run_deployable, images, check=False).record
        self._classes = ChannelClasses(record)
        self._removable = removable(self._classes)
        self._unit, self._place = self._owners()
        self._layers = LayerCosts(pruner.network, images, run_deployable)
        self.before = self._cost(np.zeros(len(self._removable), dtype=bool))

    def of(self, masked: np.ndarray) -> Cost:
        """Cost of the compact network.

        Args:
            masked (np.ndarray): Number of masked filters of every unit, (U,).
        """
        goes = self._removable & (self._unit >= 0) & (self._place < masked[self._unit])
        return self._cost(take_back_for_shape(self._classes, goes, self.divisor))

    def _cost(self, gone: np.ndarray) -> Cost:
        left = {dim: 1 - gone[labels].mean() for dim, labels in self._classes.dims.items()}
        return Cost(*self._layers.left(left))

    def _most(self, unit: Unit, min_keep: int) -> int:
        return max(0, unit.size - math.ceil(min_keep / self.divisor) * self.divisor)

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


class _Search:
    """Finds numbers of masked filters for a target."""

    def __init__(self, costs: CompactCosts, quantity: str, share: float) -> None:
        self.costs, self.quantity, self.share = costs, quantity, share
        self.whole = getattr(costs.before, quantity)

    def solve(self) -> np.ndarray:
        """Numbers of masked filters, (U,)."""
        smallest = self._left(self.costs.most)
        if smallest > self.share * (1 + TOLERANCE):
            raise ValueError(
                f"target.{self.quantity}={self.share:g} cannot be reached: {smallest:.1%} are left when every layer "
                "that is pruned keeps the fewest filters (min_keep, round_to); outputs and excluded layers stay whole"
            )
        low, high = 0.0, 1.0
        for _ in range(_STEPS):
            middle = (low + high) / 2
            if self._left(self._at(middle)) > self.share:
                low = middle
            else:
                high = middle
        masked = self._refine(self._at(low), self._at(high))
        error = abs(self._left(masked) / self.share - 1)
        if error > TOLERANCE:
            raise ValueError(
                f"target.{self.quantity}={self.share:g} cannot be met within {TOLERANCE:.0%}: {self._left(masked):.1%} "
                f"are nearest with widths that are multiples of round_to={self.costs.divisor}; take a smaller round_to"
            )
        return masked

    def _left(self, masked: np.ndarray) -> float:
        return getattr(self.costs.of(masked), self.quantity) / self.whole

    def _at(self, rate: float) -> np.ndarray:
        """Masked filters at one rate for all units, with what stays rounded up."""
        counts = [masked_count(unit.size, rate, self.costs.divisor) for unit in self.costs.units]
        return np.minimum(counts, self.costs.most)

    def _refine(self, more: np.ndarray, less: np.ndarray) -> np.ndarray:
        """Let units go over from a network that is too large to one that is not, the heaviest first, where it fits."""
        best = min(more, less, key=self._distance)
        masked = more.copy()
        changes = np.flatnonzero(more != less)
        weights = {index: self._left(self._with(more, index, less[index])) for index in changes.tolist()}
        for index in sorted(weights, key=lambda index: weights[index]):
            changed = self._with(masked, index, less[index])
            best = min(best, changed, key=self._distance)
            if self._left(changed) >= self.share:
                masked = changed
        return self._step_by_step(best)

    def _step_by_step(self, best: np.ndarray) -> np.ndarray:
        """Single steps of single units, as long as they lead nearer and it is not near enough."""
        while self._distance(best) > TOLERANCE / 2 * self.share:
            step = self.costs.divisor if self._left(best) > self.share else -self.costs.divisor
            numbers = [int(np.clip(best[index] + step, 0, self.costs.most[index])) for index in range(len(best))]
            tried = [self._with(best, index, number) for index, number in enumerate(numbers)]
            nearest = min(tried, key=self._distance)
            if self._distance(nearest) >= self._distance(best):
                break
            best = nearest
        return best

    def _distance(self, masked: np.ndarray) -> float:
        return abs(self._left(masked) - self.share)

    @staticmethod
    def _with(masked: np.ndarray, index: int, number: int) -> np.ndarray:
        changed = masked.copy()
        changed[index] = number
        return changed


def _images(network: nn.Module, model: nn.Module, example_input: Tensor | Sequence[int] | None) -> Tensor:
    """The example, or zeros of the first usual size on which the network runs; large ones first."""
    if example_input is not None:
        return make_images("example_input", example_input, network)[:1]
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    failure: Exception | None = None
    for size in sorted(IMAGE_SIZES, reverse=True):
        for channels in image_channels(first, known_channels(network, model)):
            images = make_images("example_input", (channels, size, size), network)
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


def _scale(number: float) -> tuple[float, str]:
    return next(((scale, unit) for scale, unit in ((1e9, "G"), (1e6, "M")) if number >= scale), (1e3, "k"))
