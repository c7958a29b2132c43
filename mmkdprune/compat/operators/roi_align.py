"""RoIAlign: the average form on torchvision's kernel or as a product, the maximum form on PyTorch."""

import torch
from torch import Tensor

from . import sampling_matrix, sampling_maximum
from .precision import full
from .sampling import check_regions

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
    check_regions(regions, len(features))
    bins = (aligned_height, aligned_width)
    settings = (bins, spatial_scale, sampling_ratio, aligned)
    if pool_mode != MAXIMUM:
        if sampling_matrix.pays_off(features.shape, regions, settings):
            output.copy_(sampling_matrix.pool(features, regions, settings))
        else:
            align = torch.ops.torchvision.roi_align
            output.copy_(align(features, regions, spatial_scale, *bins, sampling_ratio, aligned))
        return
    sampling_maximum.pool(features, regions, settings, output, argmax_y, argmax_x)


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
        bins, shape = (aligned_height, aligned_width), grad_input.shape
        settings = (bins, spatial_scale, sampling_ratio, aligned)
        if sampling_matrix.pays_off(shape, regions, settings):
            grad_input += sampling_matrix.spread(gradient, regions, shape, settings)
        elif regions.device.type == "cpu" and grad_input.is_contiguous():
            sampling_matrix.add_few(gradient, regions, grad_input, settings)
        else:
            backward = torch.ops.torchvision._roi_align_backward
            grad_input += backward(gradient, regions, spatial_scale, *bins, *shape, sampling_ratio, aligned)
        return
    sampling_maximum.spread(gradient, regions, argmax_y, argmax_x, grad_input)
