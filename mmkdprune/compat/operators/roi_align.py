"""RoIAlign: the average form on torchvision's kernel, the maximum form on PyTorch."""

import torch
from torch import Tensor

from .precision import full
from .sampling import bilinear_corners, groups_of_equal_size

MAXIMUM = 0  # MMCV's number of pool mode 'max'; 1 is 'avg'


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoIAlign (He et al., ICCV 2017) into ``output``.

    Args:
        input (Tensor): Features (N, C, H, W).
        rois (Tensor): Regions (R, 5): index of the image, then x1, y1, x2, y2 in pixels of the image.
        output (Tensor): Output (R, C, aligned_height, aligned_width). With pool mode 'max', a region without extent
            gives 0, as the average does; MMCV's own kernel writes the start value of its search there, -10000.
        argmax_y (Tensor): Place of each maximum in pixels of ``input``, downwards; like ``output``, -1 where there is
            none. Written with pool mode 'max' only.
        argmax_x (Tensor): Its place sideways.
        aligned_height (int): Bins of a region, downwards.
        aligned_width (int): Bins of a region, sideways.
        spatial_scale (float): Pixels of ``input`` per pixel of the image.
        sampling_ratio (int): Samples of a bin in each direction; 0 for as many as it has pixels, rounded up.
        pool_mode (int): 0 maximum, 1 average of the samples.
        aligned (bool): Whether pixel centres lie at half coordinates. Without it, regions are at least a pixel wide.
    """
    features, regions = full(input, rois)
    bins = (aligned_height, aligned_width)
    if pool_mode != MAXIMUM:
        align = torch.ops.torchvision.roi_align
        output.copy_(align(features, regions, spatial_scale, *bins, sampling_ratio, aligned))
        return
    output.zero_()
    argmax_y.fill_(-1)
    argmax_x.fill_(-1)
    corners, bin_sizes = _bins_of(regions, bins, spatial_scale, aligned)
    counts = torch.full_like(bin_sizes, sampling_ratio) if sampling_ratio > 0 else bin_sizes.ceil()
    values = input.shape[1] * aligned_height * aligned_width
    for chosen, counts_yx in groups_of_equal_size(counts.long(), values):
        ys, xs = _sample_places(corners[chosen], bin_sizes[chosen], bins, counts_yx)
        largest, place = _samples(features, regions[chosen, 0].long(), ys, xs).max(dim=-1)
        output[chosen] = largest.to(output)
        at_y = ys[:, None, :, None].expand(*place.shape, -1).gather(-1, place[..., None] // counts_yx[1])
        at_x = xs[:, None, None].expand(*place.shape, -1).gather(-1, place[..., None] % counts_yx[1])
        argmax_y[chosen] = at_y[..., 0].to(argmax_y)
        argmax_x[chosen] = at_x[..., 0].to(argmax_x)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add the gradient by the features to ``grad_input``; arguments as in :func:`roi_align_forward`."""
    gradient, regions = full(grad_output, rois)
    if pool_mode != MAXIMUM:
        backward = torch.ops.torchvision._roi_align_backward
        bins = (aligned_height, aligned_width)
        grad_input += backward(gradient, regions, spatial_scale, *bins, *grad_input.shape, sampling_ratio, aligned)
        return
    channels, height, width = grad_input.shape[1:]
    found = argmax_y != -1
    ys, xs = full(argmax_y, argmax_x)
    images = regions[:, 0].long()[:, None] * channels + torch.arange(channels, device=regions.device)
    start = images[:, :, None, None] * (height * width)
    total = torch.zeros_like(grad_input, dtype=gradient.dtype).flatten()
    for row, by_row in bilinear_corners(ys, height):
        for column, by_column in bilinear_corners(xs, width):
            share = gradient * (by_row * by_column * found)
            total.index_add_(0, (start + row * width + column).flatten(), share.flatten())
    grad_input += total.view_as(grad_input)


def _bins_of(regions: Tensor, bins: tuple[int, int], spatial_scale: float, aligned: bool) -> tuple[Tensor, Tensor]:
    """Upper left corners (R, 2) of the regions and sizes (R, 2) of their bins in pixels of the features, y before x."""
    places = regions[:, 1:] * spatial_scale - (0.5 if aligned else 0.0)
    sizes = places[:, 2:] - places[:, :2]
    if not aligned:
        sizes = sizes.clamp(min=1)
    return places[:, [1, 0]], sizes[:, [1, 0]] / sizes.new_tensor(bins)


def _sample_places(
    corners: Tensor, bin_sizes: Tensor, bins: tuple[int, int], counts: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Places of the samples of every bin: (R, bins, samples) downwards and sideways."""
    places = []
    for axis in (0, 1):
        within = (torch.arange(counts[axis], device=corners.device).to(corners) + 0.5) / counts[axis]
        start = torch.arange(bins[axis], device=corners.device).to(corners)
        shape = (-1, 1, 1)
        places.append(
            corners[:, axis].reshape(shape)
            + start[:, None] * bin_sizes[:, axis].reshape(shape)
            + within * bin_sizes[:, axis].reshape(shape)
        )
    return places[0], places[1]


def _samples(features: Tensor, images: Tensor, ys: Tensor, xs: Tensor) -> Tensor:
    """Interpolated values (R, C, bins y, bins x, samples y * samples x)."""
    channels, height, width = features.shape[1:]
    pixels = features.permute(0, 2, 3, 1)
    total = features.new_zeros(())
    of_image = images[:, None, None]
    for row, by_row in bilinear_corners(ys.flatten(1), height):
        for column, by_column in bilinear_corners(xs.flatten(1), width):
            weight = by_row[:, :, None] * by_column[:, None]
            total = total + pixels[of_image, row[:, :, None], column[:, None]] * weight[..., None]
    split = total.view(len(ys), *ys.shape[1:], *xs.shape[1:], channels)
    return split.permute(0, 5, 1, 3, 2, 4).flatten(-2)
