"""Operators that only move values: the masks of PSANet and the columns of a masked convolution."""

import torch
import torch.nn.functional as F
from torch import Tensor

COLLECT = 0  # MMCV's number of PSA type 'collect'; 1 is 'distribute'


def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Lay the attention map of every pixel, centred on it, over the feature map (PSANet, Zhao et al., ECCV 2018).

    Args:
        input (Tensor): Attention maps (N, h_mask * w_mask, h_feature, w_feature).
        output (Tensor): Output (N, h_feature * w_feature, h_feature, w_feature). Type 'collect' has a pixel's map along
            the channels, 'distribute' in the channel of that pixel; 0 where the map does not reach.
        psa_type (int): 0 collect, 1 distribute.
        num_ (int): N.
        h_feature (int): Height of the feature map.
        w_feature (int): Its width.
        h_mask (int): Height of an attention map.
        w_mask (int): Its width.
        half_h_mask (int): Row of an attention map that lies on its pixel.
        half_w_mask (int): Its column.
    """
    place, reached = _psa_places(input, h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask)
    collected = input.flatten(2).gather(1, place.expand(num_, -1, -1)).masked_fill(~reached, 0)
    output.view_as(collected).copy_(collected if psa_type == COLLECT else collected.transpose(1, 2))


def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Add the gradient by the attention maps to ``grad_input``; arguments as in :func:`psamask_forward`."""
    place, reached = _psa_places(grad_input, h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask)
    gradient = grad_output.flatten(2)
    collected = gradient if psa_type == COLLECT else gradient.transpose(1, 2)
    grad_input.view(num_, h_mask * w_mask, -1).scatter_add_(
        1, place.expand(num_, -1, -1), collected.masked_fill(~reached, 0).to(grad_input)
    )


def _psa_places(
    tensor: Tensor, height: int, width: int, h_mask: int, w_mask: int, half_h_mask: int, half_w_mask: int
) -> tuple[Tensor, Tensor]:
    """Of each target and each pixel (1, H * W, H * W): the place in the pixel's map, and whether the map has it."""

    def along(size: int, mask: int, half: int) -> tuple[Tensor, Tensor]:
        pixels = torch.arange(size, device=tensor.device)
        place = pixels[:, None] - pixels + half
        return place.clamp(0, mask - 1), (place >= 0) & (place < mask)

    row, in_rows = along(height, h_mask, half_h_mask)
    column, in_columns = along(width, w_mask, half_w_mask)
    place = row[:, None, :, None] * w_mask + column[:, None]
    reached = in_rows[:, None, :, None] & in_columns[:, None]
    shape = (1, height * width, height * width)
    return place.reshape(shape), reached.reshape(shape)


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Write the windows around the chosen pixels as columns.

    Args:
        im (Tensor): Features (1, C, H, W).
        mask_h_idx (Tensor): Rows (M,) of the pixels, int64.
        mask_w_idx (Tensor): Their columns.
        col (Tensor): Output (C * kernel_h * kernel_w, M).
        kernel_h (int): Height of a window.
        kernel_w (int): Its width.
        pad_h (int): Rows of zeros above and below the features.
        pad_w (int): Columns of zeros beside them.
    """
    padded = F.pad(im[0], (pad_w, pad_w, pad_h, pad_h))
    rows = mask_h_idx + torch.arange(kernel_h, device=im.device)[:, None, None]
    columns = mask_w_idx + torch.arange(kernel_w, device=im.device)[:, None]
    col.copy_(padded[:, rows, columns].view_as(col))


def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, height: int, width: int, channels: int
) -> None:
    """Put the columns ``col`` (channels, M) back at their pixels of ``im`` (1, channels, height, width)."""
    im[0, :, mask_h_idx, mask_w_idx] = col
