"""The ShuffleNetV1 of the CIFAR tables."""

from typing import Any

import torch
import torch.nn as nn
from mmcv.cnn import ConvModule
from mmpretrain.models.utils import channel_shuffle
from torch import Tensor

from mmkdprune.arguments import checked
from mmkdprune.registry import MODELS

from .staged_backbone import PYTORCH_INIT, StagedBackbone

STEM_CHANNELS = 24


class ShuffleUnit(nn.Module):
    """Grouped 1x1, depthwise 3x3 and grouped 1x1 convolution, added to the input or, with stride 2, put beside it.

    MMPretrain's block has no ReLU after the depthwise convolution, and its inner channels are a quarter of the whole
    output; here they are a quarter of what the convolutions contribute.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        stride (int): 1 or 2. With 2 the convolutions give ``out_channels - in_channels`` channels and average pooling
            the others; with 1 ``in_channels`` must equal ``out_channels``.
        groups (int): Groups of the 1x1 convolutions. The first has a single one on the stem's few channels.
        norm_cfg (dict): Config of the norm layers.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, groups: int, norm_cfg: dict) -> None:
        super().__init__()
        self.first_groups = 1 if in_channels == STEM_CHANNELS else groups
        self.shortcut = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else None
        channels = out_channels if self.shortcut is None else out_channels - in_channels
        inner = channels // 4
        self.compress = ConvModule(in_channels, inner, 1, groups=self.first_groups, norm_cfg=norm_cfg)
        self.depthwise = ConvModule(inner, inner, 3, stride=stride, padding=1, groups=inner, norm_cfg=norm_cfg)
        self.expand = ConvModule(inner, channels, 1, groups=groups, norm_cfg=norm_cfg, act_cfg=None)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        out = self.compress(x)
        if self.first_groups > 1:
            out = channel_shuffle(out, self.first_groups)
        out = self.expand(self.depthwise(out))
        out = out + x if self.shortcut is None else torch.cat((out, self.shortcut(x)), dim=1)
        return self.relu(out)


@MODELS.register_module()
class CifarShuffleNetV1(StagedBackbone):
    """ShuffleNetV1 for small images: the stem is a 1x1 convolution of stride 1.

    A stem of 24 channels and three stages of 4, 8 and 4 units, each of stride 2. Not to be confused with MMPretrain's
    ``ShuffleNetV1``. Add a ``GlobalAveragePooling`` neck and a ``LinearClsHead`` with ``in_channels`` = the backbone's
    ``feat_dim``.

    Source: Zhang et al., "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices", CVPR
    2018; the variant for CIFAR is that of the CRD and HSAKD repositories.

    Args:
        groups (int): Groups of the 1x1 convolutions: 1, 2 or 3; the channels follow from it. Defaults to 3.
        **kwargs: Of :class:`StagedBackbone`: ``in_channels, out_indices, frozen_stages, norm_eval, norm_cfg,
            init_cfg``.

    Raises:
        ValueError: If the number of groups is unknown.
    """

    default_init = PYTORCH_INIT
    first_widths = {1: 144, 2: 200, 3: 240}  # groups: channels of the first stage
    num_blocks = (4, 8, 4)

    @checked
    def __init__(self, groups: int = 3, **kwargs: Any) -> None:
        if groups not in self.first_widths:
            raise ValueError(f"CifarShuffleNetV1: groups must be one of {list(self.first_widths)}, got {groups!r}.")
        self.groups = groups
        width = self.first_widths[groups]
        super().__init__(
            stem_channels=STEM_CHANNELS,
            stage_channels=(width, 2 * width, 4 * width),
            stage_strides=(2, 2, 2),
            feat_dim=4 * width,
            **kwargs,
        )

    def make_stem(self, in_channels: int, out_channels: int) -> nn.Module:
        """Return a 1x1 convolution with norm and ReLU."""
        return nn.Sequential(ConvModule(in_channels, out_channels, 1, norm_cfg=self.norm_cfg))

    def make_stage(self, index: int, in_channels: int, out_channels: int, stride: int) -> nn.Module:
        """Return the stage's units, the first with the stride."""
        units = [ShuffleUnit(in_channels, out_channels, stride, self.groups, self.norm_cfg)]
        for _ in range(self.num_blocks[index] - 1):
            units.append(ShuffleUnit(out_channels, out_channels, 1, self.groups, self.norm_cfg))
        return nn.Sequential(*units)
