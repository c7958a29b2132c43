"""CARAFE (Wang et al., ICCV 2019): upsampling with a kernel of its own for every output pixel."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import full


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write the upsampled features into ``output``.

    Args:
        features (Tensor): Features (N, C, H, W).
        masks (Tensor): Kernels (N, group_size * kernel_size ** 2, H * scale_factor, W * scale_factor).
        rfeatures (Tensor): Buffer like ``features``, filled with them: MMCV keeps it for :func:`carafe_backward`.
        routput (Tensor): Buffer, unused.
        rmasks (Tensor): Buffer, unused.
        output (Tensor): Output (N, C, H * scale_factor, W * scale_factor).
        kernel_size (int): Width of the kernels in pixels of the features.
        group_size (int): Groups of channels with kernels of their own.
        scale_factor (int): Factor of the upsampling.
    """
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_naive_forward(
    features: Tensor, masks: Tensor, output: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> None:
    """As :func:`carafe_forward`, without its buffers."""
    features, masks = full(features, masks)
    padded = F.pad(features, [kernel_size // 2] * 4)
    kernels = _by_source_pixel(masks, group_size, scale_factor)
    total = torch.zeros_like(output, dtype=features.dtype)
    by_source = _by_source_pixel(total, group_size, scale_factor)
    for tap, window in _windows(padded, kernel_size, group_size):
        by_source.addcmul_(window, kernels[:, :, tap, None])
    output.copy_(total)


def carafe_backward(
    grad_output: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rgrad_output: Tensor,
    rgrad_input_hs: Tensor,
    rgrad_input: Tensor,
    rgrad_masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write the gradients by features and kernels; the tensors named ``rgrad_…`` are buffers, unused."""
    carafe_naive_backward(grad_output, rfeatures, masks, grad_input, grad_masks, kernel_size, group_size, scale_factor)


def carafe_naive_backward(
    grad_output: Tensor,
    features: Tensor,
    masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """As :func:`carafe_backward`, without its buffers."""
    grad_output, features, masks = full(grad_output, features, masks)
    margin = kernel_size // 2
    padded = F.pad(features, [margin] * 4)
    grad_padded = torch.zeros_like(padded)
    kernels, grad_kernels = (_by_source_pixel(each, group_size, scale_factor) for each in (masks, grad_masks))
    gradient = _by_source_pixel(grad_output, group_size, scale_factor)
    windows = zip(
        _windows(padded, kernel_size, group_size), _windows(grad_padded, kernel_size, group_size), strict=True
    )
    for (tap, window), (_, grad_window) in windows:
        grad_window += (gradient * kernels[:, :, tap, None]).sum((4, 6), keepdim=True)
        grad_kernels[:, :, tap] = (gradient * window).sum(2)
    height, width = features.shape[2:]
    grad_input.copy_(grad_padded[:, :, margin : margin + height, margin : margin + width])


def _by_source_pixel(tensor: Tensor, groups: int, scale: int) -> Tensor:
    """View of upsampled channels (N, groups * X, H * scale, W * scale) as (N, groups, X, H, scale, W, scale)."""
    count, channels, height, width = tensor.shape
    return tensor.view(count, groups, channels // groups, height // scale, scale, width // scale, scale)


def _windows(padded: Tensor, kernel_size: int, groups: int) -> Iterator[tuple[int, Tensor]]:
    """Views (N, groups, C / groups, H, 1, W, 1) of the padded features, one for each place of the kernel."""
    by_group = padded.unflatten(1, (groups, -1))
    height, width = (size - kernel_size + 1 for size in padded.shape[2:])
    for tap in range(kernel_size**2):
        row, column = divmod(tap, kernel_size)
        yield tap, by_group[..., row : row + height, column : column + width].unsqueeze(-2).unsqueeze(-1)
