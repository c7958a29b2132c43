"""Multi-scale deformable attention (Zhu et al., ICLR 2021) for devices on which MMCV calls its kernel."""

import torch
from torch import Tensor

from .precision import full


def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Weighted sums of the values sampled at the given places; MMCV's own PyTorch form computes them.

    Args:
        value (Tensor): Values (N, keys, heads, channels of a head), the levels one after the other.
        spatial_shapes (Tensor): Height and width of every level (levels, 2).
        level_start_index (Tensor): Index of every level's first key; follows from the shapes.
        sampling_locations (Tensor): Places (N, queries, heads, levels, points, 2), x before y, from 0 to 1.
        attention_weights (Tensor): Weights (N, queries, heads, levels, points).
        im2col_step (int): Sizes the buffers of MMCV's kernel; changes no value.

    Returns:
        Tensor: Sums (N, queries, heads * channels of a head).
    """
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    tensors = full(value, sampling_locations, attention_weights)
    return multi_scale_deformable_attn_pytorch(tensors[0], spatial_shapes, *tensors[1:]).to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Write the three gradients; arguments as in :func:`ms_deform_attn_forward`."""
    inputs = [tensor.detach().requires_grad_() for tensor in (value, sampling_locations, attention_weights)]
    with torch.enable_grad():
        output = ms_deform_attn_forward(inputs[0], spatial_shapes, level_start_index, inputs[1], inputs[2], im2col_step)
    gradients = torch.autograd.grad(output, inputs, grad_output)
    for target, gradient in zip((grad_value, grad_sampling_loc, grad_attn_weight), gradients, strict=True):
        target.copy_(gradient)
