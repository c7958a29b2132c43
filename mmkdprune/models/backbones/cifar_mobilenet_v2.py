"""The MobileNetV2 of the CIFAR tables."""

from typing import Any

import torch.nn as nn
from mmcv.cnn import ConvModule
from mmpretrain.models.backbones.mobilenet_v2 import InvertedResidual

from mmkdprune.arguments import checked
from mmkdprune.registry import MODELS

from .staged_backbone import StagedBackbone


class ExpandingInvertedResidual(InvertedResidual):
    """MMPretrain's inverted residual with ReLU, and with the first 1x1 convolution also where it does not expand.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        stride (int): Stride of the depthwise convolution.
        expand_ratio (int): Ratio of inner to input channels.
        norm_cfg (dict): Config of the norm layers.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expand_ratio: int, norm_cfg: dict) -> None:
        super().__init__(in_channels, out_channels, stride, expand_ratio, norm_cfg=norm_cfg, act_cfg=dict(type="ReLU"))
        if expand_ratio == 1:
            self.conv.insert(0, ConvModule(in_channels, in_channels, 1, norm_cfg=norm_cfg))


@MODELS.register_module()
class CifarMobileNetV2(StagedBackbone):
    """MobileNetV2 for small images: stem and second group have stride 1, and ReLU6 is ReLU.

    A 3x3 stem, four stages of inverted residuals with strides 1, 2, 2, 2, and a 1x1 convolution to 1280 channels. Inner
    feature maps are outputs of linear bottlenecks. Not to be confused with MMPretrain's ``MobileNetV2``. Add a
    ``GlobalAveragePooling`` neck and a ``LinearClsHead`` with ``in_channels`` = the backbone's ``feat_dim``.

    Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018; the variant for CIFAR
    is that of the CRD and HSAKD repositories.

    Args:
        widen_factor (float): Factor of all channels, rounded down; the 1280 of the tail grow but never shrink.
            Defaults to 0.5.
        expand_ratio (int): Ratio of inner to input channels, in all blocks but the first. Defaults to 6.
        **kwargs: Of :class:`StagedBackbone`: ``in_channels, out_indices, frozen_stages, norm_eval, norm_cfg,
            init_cfg``.

    Raises:
        ValueError: If a factor is too small.
    """

    # For each stage its groups of blocks: (channels at widen_factor 1, number of blocks).
    stage_blocks = (((16, 1), (24, 2)), ((32, 3),), ((64, 4), (96, 3)), ((160, 3), (320, 1)))

    @checked
    def __init__(self, widen_factor: float = 0.5, expand_ratio: int = 6, **kwargs: Any) -> None:
        if widen_factor < 1 / 16:
            raise ValueError(f"CifarMobileNetV2: widen_factor must be 1/16 or more, got {widen_factor!r}.")
        if expand_ratio < 1:
            raise ValueError(f"CifarMobileNetV2: expand_ratio must be 1 or more, got {expand_ratio!r}.")
        self.widen_factor = widen_factor
        self.expand_ratio = expand_ratio
        super().__init__(
            stem_channels=int(32 * widen_factor),
            stage_channels=[int(stage[-1][0] * widen_factor) for stage in self.stage_blocks],
            stage_strides=(1, 2, 2, 2),
            feat_dim=max(1280, int(1280 * widen_factor)),
            **kwargs,
        )

    def make_stem(self, in_channels: int, out_channels: int) -> nn.Module:
        """Return a 3x3 convolution with norm and ReLU."""
        return nn.Sequential(ConvModule(in_channels, out_channels, 3, padding=1, norm_cfg=self.norm_cfg))

    def make_stage(self, index: int, in_channels: int, out_channels: int, stride: int) -> nn.Module:
        """Return one or two groups of blocks, the first block with the stride."""
        blocks: list[nn.Module] = []
        for width, num_blocks in self.stage_blocks[index]:
            channels = int(width * self.widen_factor)
            for _ in range(num_blocks):
                expand_ratio = 1 if index == 0 and not blocks else self.expand_ratio
                blocks.append(ExpandingInvertedResidual(in_channels, channels, stride, expand_ratio, self.norm_cfg))
                in_channels, stride = channels, 1
        return nn.Sequential(*blocks)

    def make_tail(self, in_channels: int, out_channels: int) -> nn.Module:
        """Return a 1x1 convolution with norm and ReLU."""
        return nn.Sequential(ConvModule(in_channels, out_channels, 1, norm_cfg=self.norm_cfg))
