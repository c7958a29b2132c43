"""Deformable RoI pooling (Dai et al., ICCV 2017): average RoIAlign whose bins move by given offsets."""

from collections.abc import Iterator

import torch
from torch import Tensor

from .precision import full
from .sampling import bins_of, check_regions, groups_of_equal_size, sample_bilinear, sample_counts, sample_places


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Write the pooled features into ``output``.

    Args:
        input (Tensor): Features (N, C, H, W).
        rois (Tensor): Regions (R, 5): index of the image, then x1, y1, x2, y2 in pixels of the image.
        offset (Tensor): Offsets (R, 2, pooled_height, pooled_width) of the bins, x before y, or empty.
        output (Tensor): Output (R, C, pooled_height, pooled_width).
        pooled_height (int): Bins of a region, downwards.
        pooled_width (int): Bins of a region, sideways.
        spatial_scale (float): Pixels of ``input`` per pixel of the image.
        sampling_ratio (int): Samples of a bin in each direction; 0 for as many as it has pixels, rounded up.
        gamma (float): Unit of the offsets, as a share of the region's size.
    """
    features, regions, offsets = full(input, rois, offset)
    check_regions(regions, len(features))
    settings = (pooled_height, pooled_width), spatial_scale, sampling_ratio, gamma
    output.zero_()
    for chosen, pooled in _pooled(features, regions, offsets, *settings):
        output[chosen] = pooled.to(output)


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Add the gradients by features and offsets; arguments as in :func:`deform_roi_pool_forward`."""
    gradient, features, regions, offsets = full(grad_output, input, rois, offset)
    features, offsets = features.detach().requires_grad_(), offsets.detach().requires_grad_()
    settings = (pooled_height, pooled_width), spatial_scale, sampling_ratio, gamma
    with torch.enable_grad():
        for chosen, pooled in _pooled(features, regions, offsets, *settings):
            torch.autograd.backward(pooled, gradient[chosen])
    for target, source in ((grad_input, features), (grad_offset, offsets)):
        if source.grad is not None:
            target += source.grad.to(target)


def _pooled(
    features: Tensor,
    regions: Tensor,
    offsets: Tensor,
    bins: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices of some regions and their pooled features (R', C, bins, bins)."""
    corners, bin_sizes = bins_of(regions, bins, spatial_scale, aligned=True)
    extents = bin_sizes * bin_sizes.new_tensor(bins)
    for chosen, counts in groups_of_equal_size(
        sample_counts(bin_sizes, sampling_ratio), features.shape[1] * bins[0] * bins[1]
    ):
        ys, xs = sample_places(corners[chosen], bin_sizes[chosen], bins, counts)
        y, x = ys[:, :, None, :, None], xs[:, None, :, None]
        if offsets.numel():
            shift = gamma * extents[chosen].flip(1)[:, :, None, None] * offsets[chosen].view(-1, 2, *bins)
            x, y = x + shift[:, 0, ..., None, None], y + shift[:, 1, ..., None, None]
        samples = sample_bilinear(features, regions[chosen, 0].long(), y, x)
        yield chosen, samples.mean(dim=(3, 4)).movedim(-1, 1)
