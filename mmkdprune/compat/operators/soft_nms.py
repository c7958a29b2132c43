"""The forms of non-maximum suppression that need every overlap: soft, and grouping. On the CPU, as in MMCV.

Both sweep the boxes from left to right, so that only pairs with an overlap cost memory, and decide about all boxes at
once that have no better one beside them left: far fewer steps than boxes.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Methods of soft non-maximum suppression, as MMCV numbers them.
NAIVE, LINEAR, GAUSSIAN = range(3)
# Pairs of boxes looked at together: some 100 MB.
BLOCK = 1 << 21


class Pairs(NamedTuple):
    """Pairs of overlapping boxes: index of the one, of the other, and their IoU; each pair once."""

    first: np.ndarray
    second: np.ndarray
    overlap: np.ndarray


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft non-maximum suppression (Bodla et al., ICCV 2017): boxes near a better one lose score instead of going.

    Args:
        boxes (Tensor): Boxes (N, 4) as x1, y1, x2, y2 in pixels, on the CPU.
        scores (Tensor): Scores (N,).
        dets (Tensor): Output (N, 5): its first K rows become the boxes that stay, with their new scores.
        iou_threshold (float): Overlap from which on the naive and the linear method act.
        sigma (float): Width of the Gaussian method.
        min_score (float): A box goes once its score is below it; the best one always stays.
        method (int): 0 naive (factor 0), 1 linear (factor 1 - IoU), 2 Gaussian (factor exp(-IoU^2 / sigma)).
        offset (int): 0, or 1 where a box of one pixel has ``x1 == x2``.

    Returns:
        Tensor: Indices (K,) of the boxes that stay, int64, best new score first.
    """
    if boxes.numel() == 0:
        return torch.empty(0, dtype=torch.long)
    start = scores.detach().float().numpy()
    candidates = start >= min_score
    candidates[start.argmax()] = True
    members = np.flatnonzero(candidates)
    coordinates = boxes.detach().float().numpy()[members]
    pairs = overlapping_pairs(coordinates, offset, 0.0 if method == GAUSSIAN else iou_threshold)
    final = _lowered_scores(start[members], pairs, _factors(pairs.overlap, sigma, method), min_score)
    order = np.argsort(-final, kind="stable")
    order = order[: np.count_nonzero(~np.isnan(final))]  # those that went are NaN, and last
    indices = torch.from_numpy(members[order])
    dets[: len(order), :4] = boxes[indices]
    dets[: len(order), 4] = torch.from_numpy(final[order])
    return indices


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Non-maximum suppression that keeps, beside each box that stays, those that went because of it.

    Args:
        dets (Tensor): Boxes and scores (N, 5), on the CPU.
        iou_threshold (float): Overlap from which on a box goes.

    Returns:
        list[list[int]]: One list a box that stays, best first: its index, then those of its group, by score.
    """
    boxes = dets[:, :4].float().numpy()
    best_first = dets[:, 4].argsort(descending=True, stable=True).numpy()
    rank = np.empty(len(dets), dtype=np.int64)
    rank[best_first] = np.arange(len(dets))
    pairs = overlapping_pairs(boxes, 0, iou_threshold)
    # boxes that lose all of their score beside a better one: those that stay are left
    ordered = (len(dets) - rank).astype(np.float32)
    stays = ~np.isnan(_lowered_scores(ordered, pairs, np.zeros_like(pairs.overlap), min_score=0.5))
    leader = np.full(len(dets), len(dets))
    for one, other in ((pairs.first, pairs.second), (pairs.second, pairs.first)):
        led = stays[one] & ~stays[other]
        np.minimum.at(leader, other[led], rank[one[led]])
    leader[stays] = rank[stays]
    groups: dict[int, list[int]] = {}
    for index in best_first.tolist():
        groups.setdefault(int(leader[index]), []).append(index)
    return list(groups.values())


def overlapping_pairs(boxes: np.ndarray, offset: int, threshold: float) -> Pairs:
    """Return the pairs of boxes that overlap, by at least ``threshold``.

    Args:
        boxes (np.ndarray): Boxes (N, 4) as x1, y1, x2, y2 in pixels, float32.
        offset (int): As in :func:`softnms`.
        threshold (float): Least IoU; with 0 every overlap counts.
    """
    order = np.argsort(boxes[:, 0], kind="stable")
    x1, y1, x2, y2 = np.ascontiguousarray(boxes[order].T)
    x2, y2 = x2 + np.float32(offset), y2 + np.float32(offset)
    areas = (x2 - x1) * (y2 - y1)
    found = [Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))]
    for first, second in _pairs_side_by_side(x1, x2):
        heights = np.minimum(y2[first], y2[second]) - np.maximum(y1[first], y1[second])
        touching = np.flatnonzero(heights > 0)
        first, second = first[touching], second[touching]
        shared = (np.minimum(x2[first], x2[second]) - x1[second]) * heights[touching]
        overlap = shared / (areas[first] + areas[second] - shared)
        if threshold > 0:
            enough = np.flatnonzero(overlap >= np.float32(threshold))
            first, second, overlap = first[enough], second[enough], overlap[enough]
        found.append(Pairs(order[first], order[second], overlap))
    return Pairs(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _pairs_side_by_side(left: np.ndarray, right: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of boxes, sorted by their left sides, that overlap from left to right; in blocks."""
    places = np.arange(len(left))
    counts = np.maximum(np.searchsorted(left, right) - places - 1, 0)
    totals = np.cumsum(counts)
    start = 0
    while start < len(left):
        before = totals[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(totals, before + BLOCK, side="right")))
        of_block = counts[start:stop]
        first = np.repeat(places[start:stop], of_block)
        # pair number k of a box is with the k-th box to its right
        second = np.arange(len(first)) + np.repeat(
            places[start:stop] + 1 - (totals[start:stop] - of_block - before), of_block
        )
        yield first, second
        start = stop


def _factors(overlap: np.ndarray, sigma: float, method: int) -> np.ndarray:
    if method == GAUSSIAN:
        return np.exp(-(overlap * overlap) / np.float32(sigma))
    return np.zeros_like(overlap) if method == NAIVE else 1 - overlap


def _lowered_scores(start: np.ndarray, pairs: Pairs, factors: np.ndarray, min_score: float) -> np.ndarray:
    """Scores at which the boxes are taken, NaN for those that go.

    Taking the best box again and again, a box's score follows from the neighbours taken before it alone. Scores only
    fall: a box that no neighbour surpasses is taken before all of its neighbours, whatever happens elsewhere.
    """
    current, final = start.copy(), np.full_like(start, np.nan)
    waiting = np.ones(len(start), dtype=bool)
    one, other, _ = pairs
    while waiting.any():
        of_one, of_other = current[one], current[other]
        one_ahead = (of_one > of_other) | ((of_one == of_other) & (one < other))
        taken = waiting.copy()
        taken[np.where(one_ahead, other, one)] = False
        final[taken] = current[taken]
        waiting &= ~taken
        lowers = np.flatnonzero(taken[one] | taken[other])  # never both: one of them is ahead
        np.multiply.at(current, np.where(taken[one[lowers]], other[lowers], one[lowers]), factors[lowers])
        waiting &= current >= min_score
        left = np.flatnonzero(waiting[one] & waiting[other])
        one, other, factors = one[left], other[left], factors[left]
    return final
