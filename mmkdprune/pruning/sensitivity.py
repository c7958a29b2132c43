"""What a network loses when single layers are pruned, and the rates that follow from it for a target."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmkdprune.arguments import checked

from .budget import Budget, check_target
from .budget_search import CountSearch
from .checks import check_number
from .compact_costs import CompactCosts
from .filter_pruner import FilterPruner, masked_count
from .modes import set_modes
from .units import Unit, apply_masks

# Powers of 2 of the lowest and the highest price: beyond all losses and savings there may be.
_PRICES = 60


@dataclass(frozen=True)
class Curve:
    """What a network is worth when one layer, or group of layers with one mask, is pruned.

    Attributes:
        size: Number of filters N.
        points: By number of masked filters the metric, higher is better; that of 0, the dense network, is there.
    """

    size: int
    points: Mapping[int, float]

    def losses(self) -> np.ndarray:
        """Predicted loss of the metric by number of masked filters 0, ..., N, float64, (N + 1,): rising from 0.

        Measured values scatter: those that fall again are pooled with their neighbours (isotonic regression). Between
        them the loss is linear. With all filters masked the whole metric counts as lost.
        """
        from sklearn.isotonic import isotonic_regression

        numbers = sorted(self.points)[1:]
        dense = self.points[0]
        measured = [dense - self.points[number] for number in numbers]
        # Nothing is pooled with the dense network, which is known.
        rising = isotonic_regression(measured, y_min=0.0).tolist() if numbers else []
        everything = max([abs(dense), *rising])
        return np.interp(np.arange(self.size + 1), [0, *numbers, self.size], [0.0, *rising, everything])


class _Ladder:
    """Schedules that stop at each of some rates, with nothing zeroed before the end."""

    def __init__(self, rates: Sequence[float]) -> None:
        self.rates = rates

    def rate(self, t: int, total: int) -> float:
        return self.rates[t] if t < min(len(self.rates), total - 1) else self.rates[-1]

    @staticmethod
    def decay(t: int, total: int) -> float:
        return float(t + 1 < total)


@dataclass(frozen=True)
class Candidates:
    """What pruning would mask.

    Attributes:
        network: The part of the model that is pruned.
        part: Its name; empty for the whole model.
        units: Layers, or groups of layers with one mask, in the order of the forward pass.
        masks: By name of the unit and number of filters in it the mask, bool, (N,); True = masked.
        skipped: Convolutions that are left alone, with the reason.
    """

    network: nn.Module
    part: str
    units: list[Unit]
    masks: dict[str, dict[int, Tensor]]
    skipped: dict[str, str]


@checked
def lowest_filters(model: nn.Module, rates: Sequence[float], **options: Any) -> Candidates:
    """Find the filters that pruning would mask in each layer, or group of layers with one mask.

    Args:
        model (nn.Module): The model; unchanged.
        rates (Sequence[float]): Shares of filters in (0, 1).
        **options: Arguments of :class:`FilterPruner`, such as ``coupling``, ``criterion``, ``rate_map``, ``exclude``.

    Returns:
        Candidates: With a mask for every rate. Rates that round to the same number of filters have one mask, and those
        that round to 0 none.

    Raises:
        ValueError: If a rate is not in (0, 1), or nothing can be pruned.
    """
    ladder = _Ladder(check_rates("rates", rates))
    schedules: dict[str, Any] = {"rate_schedule": ladder.rate, "decay_schedule": ladder.decay}
    pruner = FilterPruner(model, ladder.rates[-1], sticky=False, **schedules, **options)
    masks: dict[str, dict[int, Tensor]] = {unit.name: {} for unit in pruner.units}
    for t in range(len(ladder.rates)):
        pruner.step(t, len(ladder.rates) + 1)  # soft with a decay of 1: masks, and no change of weights
        for unit in pruner.units:
            if unit.pruned_count:
                masks[unit.name][unit.pruned_count] = unit.pruned.clone()
    return Candidates(pruner.network, pruner.scope, pruner.units, masks, pruner.skipped)


def check_rates(field: str, rates: Sequence[float]) -> list[float]:
    """Return rates in rising order, each once.

    Args:
        field (str): Name of the argument, for messages.
        rates (Sequence[float]): Shares in (0, 1).

    Raises:
        ValueError: If there is none, or one is not in (0, 1).
    """
    if not rates:
        raise ValueError(f"{field} must name at least one pruning rate between 0 and 1, got none")
    for rate in rates:
        check_number(field, rate, 0, 1, open_low=True, open_high=True)
    return sorted({float(rate) for rate in rates})


@contextlib.contextmanager
def pruned_for_a_while(model: nn.Module, network: nn.Module, masks: Sequence[tuple[Unit, Tensor]]) -> Iterator[None]:
    """Zero filters with their BatchNorms inside, and put everything back afterwards, bit for bit.

    Args:
        model (nn.Module): Whose buffers (statistics of BatchNorms, for example) and modes are put back, too.
        network (nn.Module): The part of it that the names of the units refer to.
        masks (Sequence[tuple[Unit, Tensor]]): Units, and the mask of each, bool, (N,); True = zeroed.
    """
    own = [tensor.detach() for unit, _ in masks for _, tensor in unit.tensors(network, statistics=True)]
    tensors = list({id(tensor): tensor for tensor in (*own, *model.buffers())}.values())
    before = [tensor.clone() for tensor in tensors]
    modes = {module: module.training for module in model.modules()}
    try:
        for unit, mask in masks:
            number = int(mask.sum())
            zeroed = Unit(unit.name, unit.members, unit.size, unit.rate, unit.slots, mask, mask, number, number)
            apply_masks(zeroed, network, 0.0, "follow")
        yield
    finally:
        set_modes(model, modes)
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)


class RateChooser:
    """Chooses the rates of layers with which the compact network meets a target and little is lost.

    The sum over the layers of the squared predicted loss is made least (Lagrange's condition): each layer is pruned as
    long as one step less would not save more of that, for the cost it adds, than a price, the same for all layers,
    which is raised until the target is met. The square keeps single layers from being given up, and what is within the
    noise of the metric from counting. Cost is that of the compact network, see :class:`CompactCosts`.

    Args:
        costs (CompactCosts): Of the dense network.
    """

    def __init__(self, costs: CompactCosts) -> None:
        self.costs = costs

    def choose(self, curves: Mapping[str, Curve], target: Mapping[str, float], resolution: float = 0.0) -> Budget:
        """Choose.

        Args:
            curves (Mapping[str, Curve]): By name of the unit.
            target (Mapping[str, float]): ``dict(macs=0.5)`` or ``dict(params=0.5)``, the share that is to be left.
            resolution (float): Change of the metric that can just be told from none. So much is added to the loss of a
                layer that is masked whole, and in proportion else: where no loss can be seen, layers are pruned alike.

        Returns:
            Budget: Rates that leave the target within 2 %.

        Raises:
            ValueError: If the target is no share in (0, 1], or no rates meet it.
        """
        quantity, share = check_target(target)
        if quantity == "latency":
            raise ValueError("rates by sensitivity take a target of macs or params, which can be counted, got latency")
        losses = []
        for unit in self.costs.units:
            masked_share = np.arange(unit.size + 1) / unit.size
            losses.append((curves[unit.name].losses() + resolution * masked_share) ** 2)
        masked = _PricedSearch(self.costs, quantity, share, losses).solve()
        return Budget.of(self.costs, masked, target)


def predicted_loss(curves: Mapping[str, Curve], budget: Budget) -> float:
    """Sum of the losses of the metric that the curves predict for a budget.

    Args:
        curves (Mapping[str, Curve]): By name of the unit.
        budget (Budget): With the same units.
    """
    return float(sum(curves[name].losses()[before - after] for name, (before, after) in budget.kept.items()))


class _PricedSearch(CountSearch):
    """Looks along prices for what is saved of the cost, in place of one rate for all layers.

    Args:
        costs (CompactCosts): Of the network.
        quantity (str): ``'macs'`` or ``'params'``.
        share (float): To be left.
        losses (Sequence[np.ndarray]): For each unit by number of masked filters, (N + 1,).
    """

    def __init__(self, costs: CompactCosts, quantity: str, share: float, losses: Sequence[np.ndarray]) -> None:
        super().__init__(costs, quantity, share)
        self._choices = []
        none = np.zeros(len(costs.units), dtype=int)
        for index, (unit, most) in enumerate(zip(costs.units, costs.most.tolist(), strict=True)):
            numbers = {masked_count(unit.size, number / unit.size, costs.divisor) for number in range(most + 1)}
            steps = np.array(sorted(numbers))
            # The cost of a network is linear in the width of a single layer.
            alone = none.copy()
            alone[index] = steps[-1]
            whole = 1 - getattr(costs.of(alone), quantity) / self.whole
            self._choices.append((steps, losses[index][steps], whole * steps / max(1, steps[-1])))

    def _at(self, rate: float) -> np.ndarray:
        """Masked filters at the price 2^(120 rate - 60)."""
        price = 2.0 ** (_PRICES * (2 * rate - 1))
        return np.array([steps[np.argmin(lost - price * saved)] for steps, lost, saved in self._choices])
