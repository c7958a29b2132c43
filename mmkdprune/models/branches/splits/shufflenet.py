"""Stages of MMPretrain's ShuffleNets."""

from abc import abstractmethod
from typing import Any

import torch.nn as nn
from mmpretrain.models.backbones.shufflenet_v1 import ShuffleNetV1, ShuffleUnit
from mmpretrain.models.backbones.shufflenet_v2 import InvertedResidual, ShuffleNetV2
from torch import Tensor

from ..stage_protocol import StageOutputs, StageProtocol


class ShuffleNetStages(StageProtocol):
    """Stages of a ShuffleNet: the pooled stem counts as the first.

    A feature map with a quarter of the resolution comes from the stem alone; other networks have a stage there.
    """

    num_stages = 4

    def __init__(self, backbone: ShuffleNetV1 | ShuffleNetV2) -> None:
        pass

    def stages(self, backbone: Any) -> list[nn.Module]:
        """Return the stem and the three stages."""
        return [nn.Sequential(backbone.conv1, backbone.maxpool), *backbone.layers[:3]]

    def forward(self, backbone: Any, inputs: Tensor) -> StageOutputs:
        """Run stem, stages and tail."""
        taps = [backbone.maxpool(backbone.conv1(inputs))]
        for stage in backbone.layers[:3]:
            taps.append(stage(taps[-1]))
        maps = taps[1:]
        for layer in backbone.layers[3:]:
            maps.append(layer(maps[-1]))
        return StageOutputs(taps, maps[-1], tuple(map_ for i, map_ in enumerate(maps) if i in backbone.out_indices))

    def feature_shapes(self, backbone: Any) -> list[tuple[int, int]]:
        """Return channels and total stride after each stage."""
        channels = [self.unit_channels(stage[-1]) for stage in backbone.layers[:3]]
        return [(backbone.conv1.out_channels, 4), *zip(channels, (8, 16, 32), strict=True)]

    @abstractmethod
    def unit_channels(self, unit: Any) -> int:
        """Return the channels that a unit of stride 1 gives."""

    @abstractmethod
    def make_unit(self, channels: int, backbone: Any, settings: dict[str, Any]) -> nn.Module:
        """Return a unit of stride 1."""

    def repeat_last_stage(self, backbone: Any) -> None:
        """Replace the last stage by as many units of stride 1."""
        channels = self.feature_shapes(backbone)[-1][0]
        settings = {name: getattr(backbone, name) for name in ("conv_cfg", "norm_cfg", "act_cfg", "with_cp")}
        units = [self.make_unit(channels, backbone, settings) for _ in range(backbone.stage_blocks[-1])]
        backbone.layers[2] = nn.Sequential(*units)


class ShuffleNetV1Stages(ShuffleNetStages):
    """Stages of ShuffleNetV1."""

    def unit_channels(self, unit: Any) -> int:
        """Return the channels that a unit of stride 1 gives."""
        return unit.g_conv_1x1_expand.out_channels

    def make_unit(self, channels: int, backbone: Any, settings: dict[str, Any]) -> nn.Module:
        """Return a unit that adds to its input."""
        return ShuffleUnit(channels, channels, groups=backbone.groups, first_block=False, combine="add", **settings)


class ShuffleNetV2Stages(ShuffleNetStages):
    """Stages of ShuffleNetV2; the last 1x1 convolution is a tail."""

    def tail(self, backbone: Any) -> nn.Module:
        """Return the last convolution with norm and activation."""
        return backbone.layers[3]

    def out_channels(self, backbone: Any) -> int:
        """Return the channels after the last convolution."""
        return backbone.layers[3].out_channels

    def unit_channels(self, unit: Any) -> int:
        """Return the channels that a unit of stride 1 gives."""
        return unit.branch2[-1].out_channels * 2

    def make_unit(self, channels: int, backbone: Any, settings: dict[str, Any]) -> nn.Module:
        """Return a unit that leaves half of the channels as they are."""
        return InvertedResidual(channels, channels, **settings)
