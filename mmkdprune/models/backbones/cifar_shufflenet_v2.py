"""The ShuffleNetV2 of the CIFAR tables."""

from typing import Any

import torch
import torch.nn as nn
from mmcv.cnn import ConvModule
from mmpretrain.models.backbones.shufflenet_v2 import InvertedResidual
from mmpretrain.models.utils import channel_shuffle
from torch import Tensor

from mmkdprune.arguments import checked
from mmkdprune.registry import MODELS

from .staged_backbone import PYTORCH_INIT, StagedBackbone


class DownUnit(nn.Module):
    """First unit of a stage: two convolutional paths, each with half of the output's channels, shuffled.

    MMPretrain's block of stride 2, which unlike it also takes a stride of 1.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        stride (int): Stride of the depthwise convolutions.
        norm_cfg (dict): Config of the norm layers.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm_cfg: dict) -> None:
        super().__init__()
        half = out_channels // 2

        def pointwise(channels: int) -> nn.Module:
            return ConvModule(channels, half, 1, norm_cfg=norm_cfg)

        def depthwise(channels: int) -> nn.Module:
            return ConvModule(
                channels, channels, 3, stride=stride, padding=1, groups=channels, norm_cfg=norm_cfg, act_cfg=None
            )

        self.branch1 = nn.Sequential(depthwise(in_channels), pointwise(in_channels))
        self.branch2 = nn.Sequential(pointwise(in_channels), depthwise(half), pointwise(half))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        return channel_shuffle(torch.cat((self.branch1(x), self.branch2(x)), dim=1), 2)


@MODELS.register_module()
class CifarShuffleNetV2(StagedBackbone):
    """ShuffleNetV2 for small images: the stem has stride 1 and no pooling.

    A stem of 24 channels, three stages of 4, 8 and 4 units, each of stride 2, and a 1x1 convolution to 1024 channels.
    Not to be confused with MMPretrain's ``ShuffleNetV2``. Add a ``GlobalAveragePooling`` neck and a ``LinearClsHead``
    with ``in_channels`` = the backbone's ``feat_dim``.

    Source: Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", ECCV 2018; the
    variants for CIFAR are those of the HSAKD and MCL repositories.

    Args:
        widen_factor (float): 0.5 or 1.0. Defaults to 1.0.
        stem_kernel (int): Kernel size of the stem: 1 (HSAKD) or 3 (MCL). Defaults to 1.
        **kwargs: Of :class:`StagedBackbone`: ``in_channels, out_indices, frozen_stages, norm_eval, norm_cfg,
            init_cfg``.

    Raises:
        ValueError: If the factor or the kernel size is unknown.
    """

    default_init = PYTORCH_INIT
    widths = {0.5: (48, 96, 192), 1.0: (116, 232, 464)}
    num_blocks = (4, 8, 4)

    @checked
    def __init__(self, widen_factor: float = 1.0, stem_kernel: int = 1, **kwargs: Any) -> None:
        if widen_factor not in self.widths:
            raise ValueError(f"CifarShuffleNetV2: widen_factor must be 0.5 or 1.0, got {widen_factor!r}.")
        if stem_kernel not in (1, 3):
            raise ValueError(f"CifarShuffleNetV2: stem_kernel must be 1 or 3, got {stem_kernel!r}.")
        self.stem_kernel = stem_kernel
        super().__init__(
            stem_channels=24,
            stage_channels=self.widths[widen_factor],
            stage_strides=(2, 2, 2),
            feat_dim=1024,
            **kwargs,
        )

    def make_stem(self, in_channels: int, out_channels: int) -> nn.Module:
        """Return a convolution with norm and ReLU."""
        kernel = self.stem_kernel
        return nn.Sequential(ConvModule(in_channels, out_channels, kernel, padding=kernel // 2, norm_cfg=self.norm_cfg))

    def make_stage(self, index: int, in_channels: int, out_channels: int, stride: int) -> nn.Module:
        """Return the stage's units, the first with the stride."""
        units = [DownUnit(in_channels, out_channels, stride, self.norm_cfg)]
        for _ in range(self.num_blocks[index] - 1):
            units.append(InvertedResidual(out_channels, out_channels, norm_cfg=self.norm_cfg))
        return nn.Sequential(*units)

    def make_tail(self, in_channels: int, out_channels: int) -> nn.Module:
        """Return a 1x1 convolution with norm and ReLU."""
        return nn.Sequential(ConvModule(in_channels, out_channels, 1, norm_cfg=self.norm_cfg))
