"""Deformable convolutions, plain and modulated, on torchvision's kernel."""

from typing import NamedTuple

import torch
from torch import Tensor

from .precision import full

# Far outside of every feature map, where the kernels read nothing.
OUTSIDE = 1e8


class _Geometry(NamedTuple):
    """What follows the tensors in both of torchvision's operators, in their order."""

    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    dilation_h: int
    dilation_w: int
    groups: int
    deform_groups: int


def deform_conv_forward(
    input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, columns: Tensor, ones: Tensor, **settings: int
) -> None:
    """Deformable convolution (Dai et al., ICCV 2017) into ``output``.

    Args:
        input (Tensor): Features (N, C, H, W).
        weight (Tensor): Filters (D, C / groups, kH, kW).
        offset (Tensor): Offsets (N, 2 * deform_groups * kH * kW, H', W') in pixels, y before x for each position.
        output (Tensor): Output (N, D, H', W').
        columns (Tensor): Empty buffer; the backward halves share it.
        ones (Tensor): Empty buffer, unused.
        settings (int): ``kW, kH, dW, dH, padW, padH, dilationW, dilationH, group, deformable_group, im2col_step``.
            The last sizes MMCV's buffers and changes no value.
    """
    output.copy_(_forward(input, weight, offset, None, None, _plain_geometry(settings)))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **settings: int,
) -> None:
    """Write the gradients by the features and the offsets; arguments as in :func:`deform_conv_forward`."""
    gradients = _backward(grad_output, input, weight, offset, None, None, _plain_geometry(settings))
    grad_input.copy_(gradients[0])
    grad_offset.copy_(gradients[2])
    # torchvision computes all gradients at once: the buffer takes the filters' to the call that asks for it.
    columns.resize_(weight.shape).copy_(gradients[1])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    scale: float,
    **settings: int,
) -> None:
    """Write ``scale`` times the gradient by the filters; arguments as in :func:`deform_conv_forward`."""
    if columns.numel() == 0:  # neither features nor offsets have a gradient
        gradients = _backward(grad_output, input, grad_weight, offset, None, None, _plain_geometry(settings))
        grad_weight.add_(gradients[1], alpha=scale)
        return
    grad_weight.add_(columns, alpha=scale)
    columns.resize_(0)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    *,
    with_bias: bool,
    **settings: int,
) -> None:
    """Modulated deformable convolution (Zhu et al., CVPR 2019) into ``output``.

    Args:
        input (Tensor): Features (N, C, H, W).
        weight (Tensor): Filters (D, C / groups, kH, kW).
        bias (Tensor): Bias (D,), unused without ``with_bias``.
        ones (Tensor): Empty buffer, unused.
        offset (Tensor): As in :func:`deform_conv_forward`.
        mask (Tensor): Weights (N, deform_groups * kH * kW, H', W') of the sampled values.
        output (Tensor): Output (N, D, H', W').
        columns (Tensor): As ``ones``.
        with_bias (bool): Whether there is a bias.
        settings (int): ``kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group,
            deformable_group``.
    """
    bias_or_none = bias if with_bias else None
    output.copy_(_forward(input, weight, offset, mask, bias_or_none, _modulated_geometry(settings)))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    *,
    with_bias: bool,
    **settings: int,
) -> None:
    """Write the five gradients; arguments as in :func:`modulated_deform_conv_forward`."""
    bias_or_none = bias if with_bias else None
    gradients = _backward(grad_output, input, weight, offset, mask, bias_or_none, _modulated_geometry(settings))
    for target, gradient in zip((grad_input, grad_weight, grad_offset, grad_mask), gradients, strict=False):
        target.copy_(gradient)
    if with_bias:
        grad_bias.copy_(gradients[4])


def _plain_geometry(settings: dict[str, int]) -> _Geometry:
    names = ("dH", "dW", "padH", "padW", "dilationH", "dilationW", "group", "deformable_group")
    return _Geometry(*(settings[name] for name in names))


def _modulated_geometry(settings: dict[str, int]) -> _Geometry:
    names = ("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w", "group", "deformable_group")
    return _Geometry(*(settings[name] for name in names))


def _finite(offset: Tensor) -> Tensor:
    """With NaN torchvision's kernel reads memory that is not its own; MMCV's takes such a place for outside."""
    return full(offset)[0].nan_to_num(nan=OUTSIDE, posinf=OUTSIDE, neginf=-OUTSIDE)


def _mask_and_bias(
    input: Tensor, weight: Tensor, mask: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor, bool]:
    """torchvision wants tensors of some size where there is no mask and no bias."""
    placeholder = input.new_zeros((len(input), 1))
    no_bias = weight.new_zeros(len(weight))
    return (
        placeholder if mask is None else mask.to(input),
        no_bias if bias is None else bias.to(input),
        mask is not None,
    )


def _forward(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None, geometry: _Geometry
) -> Tensor:
    input, weight, offset = full(input, weight, _finite(offset))
    mask, bias, modulated = _mask_and_bias(input, weight, mask, bias)
    return torch.ops.torchvision.deform_conv2d(input, weight, offset, mask, bias, *geometry, modulated)


def _backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: _Geometry,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients by input, weight, offset, mask and bias."""
    grad_output, input, weight, offset = full(grad_output, input, weight, _finite(offset))
    mask, bias, modulated = _mask_and_bias(input, weight, mask, bias)
    backward = torch.ops.torchvision._deform_conv2d_backward
    return backward(grad_output, input, weight, offset, mask, bias, *geometry, modulated)
