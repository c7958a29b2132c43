"""Box operators: non-maximum suppression, its soft and its grouping form, and box overlaps."""

import numpy as np
import torch
from torch import Tensor

from .precision import full

# Methods of soft non-maximum suppression, as MMCV numbers them.
NAIVE, LINEAR, GAUSSIAN = range(3)


def nms(bboxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Greedy non-maximum suppression: a box goes if its IoU with a better one that stays is above the threshold.

    Args:
        bboxes (Tensor): Boxes (N, 4) as x1, y1, x2, y2 in pixels.
        scores (Tensor): Scores (N,).
        iou_threshold (float): The threshold.
        offset (int): 0, or 1 where a box of one pixel has ``x1 == x2``.

    Returns:
        Tensor: Indices (K,) of the boxes that stay, int64, best first.
    """
    bboxes, scores = full(bboxes.detach(), scores.detach())
    if offset:  # the same widths, heights and intersections, written without the offset
        bboxes = torch.cat((bboxes[:, :2], bboxes[:, 2:] + offset), dim=1)
    return torch.ops.torchvision.nms(bboxes, scores, iou_threshold)


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
        min_score (float): A box goes once its score is below it.
        method (int): 0 naive (factor 0), 1 linear (factor 1 - IoU), 2 Gaussian (factor exp(-IoU^2 / sigma)).
        offset (int): As in :func:`nms`.

    Returns:
        Tensor: Indices (K,) of the boxes that stay, int64, in the order in which they were taken.
    """
    if boxes.numel() == 0:
        return torch.empty(0, dtype=torch.long)
    factors = _soft_factors(_overlaps(boxes, offset), iou_threshold, sigma, method).numpy()
    current = scores.detach().float().numpy()
    waiting = np.arange(len(current))
    kept, final = [], []
    while len(waiting):
        best = current.argmax()
        kept.append(waiting[best])
        final.append(current[best])
        current = current * factors[waiting[best], waiting]
        stays = current >= min_score
        stays[best] = False
        waiting, current = waiting[stays], current[stays]
    indices, count = torch.from_numpy(np.array(kept)), len(kept)
    dets[:count, :4] = boxes[indices]
    dets[:count, 4] = torch.from_numpy(np.array(final))
    return indices


def _soft_factors(overlaps: Tensor, iou_threshold: float, sigma: float, method: int) -> Tensor:
    if method == GAUSSIAN:
        return torch.exp(-overlaps.square() / sigma)
    lowered = torch.zeros_like(overlaps) if method == NAIVE else 1 - overlaps
    return torch.where(overlaps >= iou_threshold, lowered, 1.0)


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Non-maximum suppression that keeps, beside each box that stays, those that went because of it.

    Args:
        dets (Tensor): Boxes and scores (N, 5), on the CPU.
        iou_threshold (float): Overlap from which on a box goes.

    Returns:
        list[list[int]]: One list a box that stays: its index, then those of its group, by score.
    """
    order = dets[:, 4].argsort(descending=True, stable=True)
    boxes = dets[order, :4]
    near = (_overlaps(boxes, 0) >= iou_threshold).numpy()
    names = order.numpy()
    waiting = np.ones(len(names), dtype=bool)
    groups = []
    for index in range(len(names)):
        if not waiting[index]:
            continue
        waiting[index] = False
        group = np.flatnonzero(near[index] & waiting)
        waiting[group] = False
        groups.append([int(names[index]), *names[group].tolist()])
    return groups


def bbox_overlaps(bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int) -> None:
    """Write the overlaps of two sets of boxes into ``ious``.

    Args:
        bboxes1 (Tensor): Boxes (M, 4) as x1, y1, x2, y2 in pixels.
        bboxes2 (Tensor): Boxes (N, 4).
        ious (Tensor): Output, (M, N); (M,) with ``aligned``.
        mode (int): 0 intersection over union, 1 over the area of the first box.
        aligned (bool): Compare the boxes pairwise.
        offset (int): As in :func:`nms`.
    """
    first = bboxes1 if aligned else bboxes1[:, None]
    ious.copy_(_intersection_over(first, bboxes2, offset, over_union=mode == 0))


def _overlaps(boxes: Tensor, offset: int) -> Tensor:
    boxes = boxes.detach().float()
    return _intersection_over(boxes[:, None], boxes, offset).nan_to_num_(0)  # two boxes without extent


def _intersection_over(first: Tensor, second: Tensor, offset: int, over_union: bool = True) -> Tensor:
    sides = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])
    intersection = (sides + offset).clamp_(min=0).prod(dim=-1)
    divisor = _area(first, offset)
    if over_union:
        divisor = divisor + _area(second, offset) - intersection
    return intersection / divisor


def _area(boxes: Tensor, offset: int) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2] + offset).prod(dim=-1)
