"""The wide residual networks of the CIFAR tables."""

from typing import Any

import torch.nn as nn
from mmpretrain.models.utils import build_norm_layer
from torch import Tensor

from mmkdprune.arguments import checked
from mmkdprune.registry import MODELS

from .staged_backbone import StagedBackbone


class PreActivationBlock(nn.Module):
    """Two 3x3 convolutions, each after a norm and ReLU, and a shortcut around them.

    Where the channels change, the shortcut is a 1x1 convolution of the activated input; elsewhere it is the raw input.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        stride (int): Stride of the first convolution and of the shortcut.
        norm_cfg (dict): Config of the norm layers.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm_cfg: dict) -> None:
        super().__init__()
        self.norm1 = build_norm_layer(norm_cfg, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm2 = build_norm_layer(norm_cfg, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = (
            nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False) if in_channels != out_channels else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        activated = self.relu(self.norm1(x))
        out = self.conv2(self.relu(self.norm2(self.conv1(activated))))
        return out + (x if self.shortcut is None else self.shortcut(activated))


@MODELS.register_module()
class CifarWideResNet(StagedBackbone):
    """Wide ResNet for small images: WRN-16-2, 40-1, 40-2, 28-4 and all others of 6n + 4 layers.

    A 3x3 stem of 16 channels, three stages of n pre-activation blocks with 16k, 32k and 64k channels and strides 1, 2,
    2, and a last norm with ReLU. Inner feature maps are raw block outputs, before the norm and ReLU that follow them.
    Add a ``GlobalAveragePooling`` neck and a ``LinearClsHead`` with ``in_channels`` = the backbone's ``feat_dim``.

    Source: Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, without dropout.

    Args:
        depth (int): Number of layers, 6n + 4.
        widen_factor (int): Factor k of the channels.
        **kwargs: Of :class:`StagedBackbone`: ``in_channels, out_indices, frozen_stages, norm_eval, norm_cfg,
            init_cfg``.

    Raises:
        ValueError: If the depth is not 6n + 4 or the factor is not a positive integer.
    """

    @checked
    def __init__(self, depth: int, widen_factor: int, **kwargs: Any) -> None:
        if not isinstance(depth, int) or depth < 10 or depth % 6 != 4:
            raise ValueError(f"CifarWideResNet: depth must be 6n + 4 (10, 16, 22, 28, 34, 40, ...), got {depth!r}.")
        if not isinstance(widen_factor, int) or widen_factor < 1:
            raise ValueError(f"CifarWideResNet: widen_factor must be an integer of 1 or more, got {widen_factor!r}.")
        self.num_blocks = (depth - 4) // 6
        widths = [16 * widen_factor, 32 * widen_factor, 64 * widen_factor]
        super().__init__(
            stem_channels=16, stage_channels=widths, stage_strides=(1, 2, 2), feat_dim=widths[-1], **kwargs
        )

    def make_stem(self, in_channels: int, out_channels: int) -> nn.Module:
        """Return a 3x3 convolution; norm and ReLU are in the first block."""
        return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)

    def make_stage(self, index: int, in_channels: int, out_channels: int, stride: int) -> nn.Module:
        """Return n blocks, the first with the stride."""
        blocks = [PreActivationBlock(in_channels, out_channels, stride, self.norm_cfg)]
        blocks += [PreActivationBlock(out_channels, out_channels, 1, self.norm_cfg) for _ in range(self.num_blocks - 1)]
        return nn.Sequential(*blocks)

    def make_tail(self, in_channels: int, out_channels: int) -> nn.Module:
        """Return the norm and ReLU that the last block lacks."""
        return nn.Sequential(build_norm_layer(self.norm_cfg, out_channels), nn.ReLU(inplace=True))
