"""Box operators: non-maximum suppression and box overlaps."""

import torch
from torch import Tensor

from .precision import full


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
    ious.copy_(_overlaps(first, bboxes2, offset, over_union=mode == 0))


def _overlaps(first: Tensor, second: Tensor, offset: int, over_union: bool) -> Tensor:
    sides = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])
    intersection = (sides + offset).clamp_(min=0).prod(dim=-1)
    divisor = _area(first, offset)
    if over_union:
        divisor = divisor + _area(second, offset) - intersection
    return intersection / divisor


def _area(boxes: Tensor, offset: int) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2] + offset).prod(dim=-1)
