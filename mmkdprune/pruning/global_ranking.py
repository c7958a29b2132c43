"""Filters of all layers in one ranking."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .criteria import rank, upcast


def normalised(scores: Tensor, masked: Tensor) -> Tensor:
    """Make the scores of a layer comparable with those of others: as multiples of the mean of what is not masked.

    Norms depend on a layer's number of inputs and on what stands behind it, so that they tell nothing across layers;
    how much smaller than its neighbours a filter is does. (The usual practice, e.g. the default of Torch-Pruning.)

    Args:
        scores (Tensor): (N,), the lowest is pruned first. Those below 0 stay below all others and do not count for the
            mean, like infinite ones.
        masked (Tensor): True for filters that the step before has masked, bool, (N,). What pruning itself has made
            small must not make the others look large.

    Returns:
        Tensor: (N,).
    """
    scores = upcast(scores)
    counts = ~masked & (scores > 0) & scores.isfinite()
    mean = torch.where(counts, scores, torch.zeros_like(scores)).sum() / counts.sum().clamp(min=1)
    return scores / torch.where(mean > 0, mean, torch.ones_like(mean))


def most_masked(size: int, min_keep: int, step: int) -> int:
    """Largest number of filters that may be masked when what stays is a multiple, and no fewer than ``min_keep``.

    Args:
        size (int): Number of filters N.
        min_keep (int): Fewest that stay.
        step (int): What the number that stays is a multiple of.
    """
    return max(0, size - math.ceil(min_keep / step) * step)


def block_sizes(size: int, most: int, step: int) -> list[int]:
    """Numbers of filters of a layer that can only go together, so that what stays is always a multiple.

    Args:
        size (int): Number of filters N.
        most (int): How many may go; N - most is a multiple of ``step``.
        step (int): What the number that stays is a multiple of.
    """
    first = size % step or step
    return [] if most < first else [first] + [step] * ((most - first) // step)


def block_scores(ordered: Tensor, blocks: Sequence[int]) -> Tensor:
    """Mean scores of blocks of filters.

    Args:
        ordered (Tensor): Scores of a layer's filters, lowest first, (N,).
        blocks (Sequence[int]): Numbers of filters, (K,); all but the first are equal.

    Returns:
        Tensor: (K,), none below the one before it.
    """
    if not blocks:
        return ordered[:0]
    first, step = blocks[0], blocks[-1]
    rest = ordered[first : sum(blocks)].view(-1, step).mean(1)
    # means of equal numbers may differ in their last digit
    return torch.cat([ordered[:first].mean()[None], rest]).cummax(0).values


class CostLimit(NamedTuple):
    """What the network may cost when all is pruned.

    Attributes:
        left: Share of the cost that is left with so many masked filters of every unit, (U,).
        share: What is to be left.
        tolerance: Relative distance from it that is near enough.
    """

    left: Callable[[np.ndarray], float]
    share: float
    tolerance: float


class GlobalRanking:
    """Chooses how many filters of every unit go, by a ranking of all.

    Filters go in the order of their scores, in whole blocks where what stays must be a multiple, until the number that
    the rate asks for is reached or the next block would exceed it.

    Args:
        sizes (Sequence[int]): Numbers of filters of the units, (U,).
        min_keep (int): Fewest that stay of each.
        step (int): What the number that stays is a multiple of.
    """

    def __init__(self, sizes: Sequence[int], min_keep: int, step: int) -> None:
        self.sizes, self.min_keep = list(sizes), min_keep
        self.blocks = [block_sizes(size, most_masked(size, min_keep, step), step) for size in sizes]
        self._unit = np.repeat(np.arange(len(sizes)), [len(blocks) for blocks in self.blocks])
        self._size = np.array([number for blocks in self.blocks for number in blocks], dtype=int)

    def count(self, rate: float) -> int:
        """Number of filters that a pruning rate stands for.

        Args:
            rate (float): In [0, 1).
        """
        return math.floor(sum(self.sizes) * rate + 1e-9)

    def check_rate(self, rate: float) -> None:
        """Refuse a rate that the layers cannot meet together.

        Args:
            rate (float): In [0, 1).

        Raises:
            ValueError: If fewer filters would be left than all layers have to keep.
        """
        filters = sum(self.sizes)
        fewest = sum(min(size, self.min_keep) for size in self.sizes)
        if filters - self.count(rate) < fewest:
            raise ValueError(
                f"rate {rate:g} leaves {filters - self.count(rate)} of {filters} filters, fewer than the {fewest} that "
                f"{len(self.sizes)} layers have to keep (min_keep={self.min_keep}): lower the rate, or min_keep"
            )

    def numbers(
        self, ordered: Sequence[Tensor], shares: tuple[float, float], hard_before: list[int], limit: CostLimit | None
    ) -> tuple[list[int], list[int]]:
        """Numbers of filters of every unit that are pruned, and that are hard.

        Args:
            ordered (Sequence[Tensor]): Scores of every unit's filters, lowest first, (N_u,) each; hard ones before all.
            shares (tuple[float, float]): How many are to be pruned, and how many of these hard: shares of all filters,
                or with a limit of those that meet it.
            hard_before (list[int]): How many are hard already and stay so, (U,).
            limit (CostLimit | None): What may be left when all is pruned.

        Returns:
            tuple[list[int], list[int]]: (U,) each.
        """
        order = self.order(ordered)
        whole = None if limit is None else self.within(order, limit)
        pruned, hard = (self._share(order, share, whole) for share in shares)
        hard = np.maximum(hard, hard_before)
        return np.maximum(pruned, hard).tolist(), hard.tolist()

    def _share(self, order: np.ndarray, share: float, whole: np.ndarray | None) -> np.ndarray:
        if whole is None:
            return self.first(order, self.count(share))
        if share >= 1:
            return whole
        return np.minimum(self.first(order, math.floor(int(whole.sum()) * share + 1e-9)), whole)

    def order(self, ordered: Sequence[Tensor]) -> np.ndarray:
        """All blocks from the least to the most important one; the only transfer from the device in a prune step.

        Args:
            ordered (Sequence[Tensor]): Scores of every unit's filters, lowest first, (N_u,) each.

        Returns:
            np.ndarray: Indices of blocks.
        """
        device = ordered[0].device
        scores = [block_scores(own, blocks).to(device) for own, blocks in zip(ordered, self.blocks, strict=True)]
        return np.array(rank(torch.cat(scores)).tolist(), dtype=int)

    def first(self, order: np.ndarray, number: int) -> np.ndarray:
        """Numbers of filters of every unit, (U,), among the first blocks that hold no more than so many in all."""
        return self._numbers(order[np.cumsum(self._size[order]) <= number])

    def within(self, order: np.ndarray, limit: CostLimit) -> np.ndarray:
        """Numbers of filters of every unit, (U,), that leave of the cost what a limit says, as nearly as it goes.

        The first blocks are taken, and at the border the one block of all units whose cost fits best.
        """
        low, high = 0, len(order)
        while high - low > 1:
            middle = (low + high) // 2
            if limit.left(self._numbers(order[:middle])) > limit.share:
                low = middle
            else:
                high = middle

        def distance(numbers: np.ndarray) -> float:
            return abs(limit.left(numbers) - limit.share)

        more = self._numbers(order[:low])
        best = min(more, self._numbers(order[:high]), key=distance)
        if distance(best) <= limit.tolerance / 2 * limit.share:
            return best
        # the next block of every unit
        _, places = np.unique(self._unit[order[low:]], return_index=True)
        tried = [more + self._numbers(order[low + place : low + place + 1]) for place in sorted(places.tolist())]
        return min([best, *tried], key=distance)

    def _numbers(self, blocks: np.ndarray) -> np.ndarray:
        return np.bincount(self._unit[blocks], self._size[blocks], minlength=len(self.blocks)).astype(int)
