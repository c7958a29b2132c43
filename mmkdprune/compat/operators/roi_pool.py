"""RoIPool (Girshick, ICCV 2015) with MMCV's bins, which are not torchvision's."""

import torch
from torch import Tensor

from .precision import full
from .sampling import check_regions, groups_of_equal_size


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Write the maximum of every bin into ``output``.

    Args:
        input (Tensor): Features (N, C, H, W).
        rois (Tensor): Regions (R, 5): index of the image, then x1, y1, x2, y2 in pixels of the image, both included.
        output (Tensor): Output (R, C, pooled_height, pooled_width); 0 for a bin without a pixel.
        argmax (Tensor): Place of each maximum, ``row * W + column``, int32; like ``output``, -1 for an empty bin.
        pooled_height (int): Bins of a region, downwards.
        pooled_width (int): Bins of a region, sideways.
        spatial_scale (float): Pixels of ``input`` per pixel of the image.
    """
    features, regions = full(input, rois)
    check_regions(regions, len(features))
    channels, height, width = features.shape[1:]
    output.zero_()
    argmax.fill_(-1)
    top, bottom = _bounds(regions[:, 2], regions[:, 4], pooled_height, spatial_scale, height)
    left, right = _bounds(regions[:, 1], regions[:, 3], pooled_width, spatial_scale, width)
    extents = torch.stack(((bottom - top).amax(dim=1), (right - left).amax(dim=1)), dim=1)
    proper = (regions[:, 3:] + 1 > regions[:, 1:3]).all(dim=1)
    pixels = features.permute(0, 2, 3, 1)
    for chosen, (rows, columns) in groups_of_equal_size(
        extents * proper[:, None], channels * pooled_height * pooled_width
    ):
        ys, within_y = _places(top[chosen], bottom[chosen], rows, height)
        xs, within_x = _places(left[chosen], right[chosen], columns, width)
        y, x = ys[:, :, None, :, None], xs[:, None, :, None]
        values = pixels[regions[chosen, 0].long()[:, None, None, None, None], y, x]
        within = within_y[:, :, None, :, None] & within_x[:, None, :, None]
        values = values.masked_fill(~within[..., None], -torch.inf)
        largest, place = values.flatten(3, 4).movedim(-1, 1).max(dim=-1)
        empty = ~within.flatten(3).any(dim=-1)[:, None]
        output[chosen] = largest.masked_fill(empty, 0).to(output)
        offsets = (y * width + x).flatten(3)[:, None].expand(*place.shape, -1)
        argmax[chosen] = offsets.gather(-1, place[..., None])[..., 0].masked_fill(empty, -1).to(argmax)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add the gradient by the features to ``grad_input``; arguments as in :func:`roi_pool_forward`."""
    channels, height, width = grad_input.shape[1:]
    maps = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
    place = maps[:, :, None, None] * (height * width) + argmax.clamp(min=0)
    gradient = grad_output.masked_fill(argmax < 0, 0).to(grad_input)
    grad_input.view(-1).index_add_(0, place.flatten(), gradient.flatten())


def _bounds(start: Tensor, end: Tensor, bins: int, spatial_scale: float, size: int) -> tuple[Tensor, Tensor]:
    """First pixel of every bin and the one after its last, (R, bins) each."""
    first, last = start * spatial_scale, (end + 1) * spatial_scale
    width = ((last - first) / bins)[:, None]
    number = torch.arange(bins, device=start.device).to(start)
    lower = (number * width + first[:, None]).floor()
    upper = ((number + 1) * width + first[:, None]).ceil()
    return lower.clamp(0, size).long(), upper.clamp(0, size).long()


def _places(start: Tensor, end: Tensor, extent: int, size: int) -> tuple[Tensor, Tensor]:
    """Pixels (R, bins, extent) of every bin, and whether they lie in it."""
    places = start[..., None] + torch.arange(extent, device=start.device)
    return places.clamp(max=size - 1), places < end[..., None]
