"""Numbers of masked filters with which a compact network meets a target: one rate for all, as nearly as it goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .compact_costs import CompactCosts
from .filter_pruner import masked_count
from .latency import Latency

# Largest relative distance from the target.
TOLERANCE = 0.02
_STEPS = 60


class CountSearch:
    """Finds numbers of masked filters for a target of what is counted.

    Args:
        costs (CompactCosts): Of the network.
        quantity (str): ``'macs'`` or ``'params'``.
        share (float): What is to be left of it.
    """

    def __init__(self, costs: CompactCosts, quantity: str, share: float) -> None:
        self.costs, self.quantity, self.share = costs, quantity, share
        self.whole = getattr(costs.before, quantity)

    def solve(self) -> np.ndarray:
        """Numbers of masked filters, (U,).

        Raises:
            ValueError: If the target cannot be reached, or not within 2 %.
        """
        if (smallest := self.left(self.costs.most)) > self.share * (1 + TOLERANCE):
            raise _unreachable(self.quantity, self.share, smallest)
        low, high = 0.0, 1.0
        for _ in range(_STEPS):
            middle = (low + high) / 2
            if self.left(self._at(middle)) > self.share:
                low = middle
            else:
                high = middle
        masked = self._refine(self._at(low), self._at(high))
        if abs(self.left(masked) / self.share - 1) > TOLERANCE:
            raise _too_coarse(self.quantity, self.share, self.left(masked), TOLERANCE, self.costs.divisor)
        return masked

    def left(self, masked: np.ndarray) -> float:
        """Share that is left.

        Args:
            masked (np.ndarray): Numbers of masked filters, (U,).
        """
        return getattr(self.costs.of(masked), self.quantity) / self.whole

    def _at(self, rate: float) -> np.ndarray:
        """Masked filters at one rate for all units, with what stays rounded up."""
        counts = [masked_count(unit.size, rate, self.costs.divisor) for unit in self.costs.units]
        return np.minimum(counts, self.costs.most)

    def _refine(self, more: np.ndarray, less: np.ndarray) -> np.ndarray:
        """Let units go over from a network that is too large to one that is not, the heaviest first, where it fits."""
        best = min(more, less, key=self.distance)
        masked = more.copy()
        changes = np.flatnonzero(more != less)
        weights = {index: self.left(_with(more, index, less[index])) for index in changes.tolist()}
        for index in sorted(weights, key=lambda index: weights[index]):
            changed = _with(masked, index, less[index])
            best = min(best, changed, key=self.distance)
            if self.left(changed) >= self.share:
                masked = changed
        return self._step_by_step(best)

    def _step_by_step(self, best: np.ndarray) -> np.ndarray:
        """Single steps of single units, as long as they lead nearer and it is not near enough."""
        while self.distance(best) > TOLERANCE / 2 * self.share:
            step = self.costs.divisor if self.left(best) > self.share else -self.costs.divisor
            numbers = [int(np.clip(best[index] + step, 0, self.costs.most[index])) for index in range(len(best))]
            tried = [_with(best, index, number) for index, number in enumerate(numbers)]
            nearest = min(tried, key=self.distance)
            if self.distance(nearest) >= self.distance(best):
                break
            best = nearest
        return best

    def distance(self, masked: np.ndarray) -> float:
        """How far from the target that is.

        Args:
            masked (np.ndarray): Numbers of masked filters, (U,).
        """
        return abs(self.left(masked) - self.share)


def search_latency(
    costs: CompactCosts, share: float, measure: Callable[[np.ndarray], Latency]
) -> tuple[np.ndarray, Latency]:
    """Find numbers of masked filters for a target of time, by bisection.

    The rate rises from nothing to the fewest filters that may stay; on this way the units lose one step of their width
    after the other. So there is a network for nearly every latency, and few have to be measured.

    Args:
        costs (CompactCosts): Of the network.
        share (float): Of the dense network's time.
        measure (Callable): Latency with these numbers of masked filters, (U,).

    Returns:
        tuple[np.ndarray, Latency]: Numbers of masked filters, (U,), and what was measured.

    Raises:
        ValueError: If the target cannot be reached, or not within 2 % and the spread of the measurement.
    """
    way = _way(costs)

    def at(place: int) -> np.ndarray:
        masked = np.zeros(len(costs.units), dtype=int)
        for _, index, number in way[:place]:
            masked[index] = number
        return masked

    def distance(found: tuple[np.ndarray, Latency]) -> float:
        return abs(found[1].share / share - 1)

    low, high = 0, len(way)
    dense, smallest = ((at(place), measure(at(place))) for place in (low, high))
    if smallest[1].share > share * (1 + max(TOLERANCE, smallest[1].spread)):
        raise _unreachable("latency", share, smallest[1].share)
    best = min(dense, smallest, key=distance)
    while high - low > 1 and distance(best) > TOLERANCE / 2:
        middle = (low + high) // 2
        found = (at(middle), measure(at(middle)))
        best = min(best, found, key=distance)
        low, high = (middle, high) if found[1].share > share else (low, middle)
    tolerance = max(TOLERANCE, best[1].spread)
    if distance(best) > tolerance:
        raise _too_coarse("latency", share, best[1].share, tolerance, costs.divisor)
    return best


def _way(costs: CompactCosts) -> list[tuple[float, int, int]]:
    """All steps from the dense network to the smallest: (rate from which on it is made, unit, masked filters)."""
    steps = []
    for index, (unit, most) in enumerate(zip(costs.units, costs.most.tolist(), strict=True)):
        first = unit.size % costs.divisor or costs.divisor
        steps += [(number / unit.size, index, number) for number in range(first, most + 1, costs.divisor)]
    return sorted(steps)


def _with(masked: np.ndarray, index: int, number: Any) -> np.ndarray:
    changed = masked.copy()
    changed[index] = number
    return changed


def _unreachable(quantity: str, share: float, smallest: float) -> ValueError:
    return ValueError(
        f"target.{quantity}={share:g} cannot be reached: {smallest:.1%} are left when every layer that is pruned keeps "
        "the fewest filters (min_keep, round_to); outputs and excluded layers stay whole"
    )


def _too_coarse(quantity: str, share: float, nearest: float, tolerance: float, divisor: int) -> ValueError:
    return ValueError(
        f"target.{quantity}={share:g} cannot be met within {tolerance:.0%}: {nearest:.1%} are nearest with widths that "
        f"are multiples of round_to={divisor}; take a smaller round_to"
    )
