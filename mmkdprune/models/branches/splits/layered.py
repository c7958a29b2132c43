"""Stages of backbones that run a list of layers: MobileNetV2, MobileNetV3 and EfficientNet."""

import itertools
import math
from abc import abstractmethod
from typing import Any

import torch.nn as nn
from mmcv.cnn.bricks import DropPath
from mmpretrain.models.backbones.efficientnet import EdgeResidual
from mmpretrain.models.backbones.mobilenet_v2 import InvertedResidual as LinearBottleneck
from mmpretrain.models.utils import InvertedResidual
from torch import Tensor

from ..stage_protocol import StageOutputs, StageProtocol

STEM_STRIDE = 2


class LayeredStages(StageProtocol):
    """Stages of a backbone that runs layers one after the other and counts them in ``out_indices``.

    A stage begins with a change of resolution; layers of stride 1 before the first change belong to the first stage.
    The last layer, a 1x1 convolution, is the tail.

    Args:
        backbone (nn.Module): The backbone.
    """

    first_layer = 0  # of the first stage; those before it are part of the stem

    def __init__(self, backbone: Any) -> None:
        strides = self.layer_strides(backbone)
        changes = [index for index, stride in enumerate(strides) if stride > 1]
        bounds = [0, *changes[1:], len(strides)]
        self.num_stages = len(bounds) - 1
        self._ranges = [range(self.first_layer + a, self.first_layer + b) for a, b in itertools.pairwise(bounds)]
        self._strides = [STEM_STRIDE * math.prod(strides[:end]) for end in bounds[1:]]

    @abstractmethod
    def layers(self, backbone: Any) -> list[Any]:
        """Return the layers in order, as ``out_indices`` counts them: blocks, or sequences of blocks."""

    @abstractmethod
    def layer_strides(self, backbone: Any) -> list[int]:
        """Return the stride of each layer between stem and tail."""

    @abstractmethod
    def block_channels(self, block: Any) -> int:
        """Return the channels that a block gives."""

    @abstractmethod
    def first_block(self, backbone: Any, block: Any, channels: int) -> nn.Module:
        """Return a block like the first of the last stage, for so many input channels and with stride 1."""

    def stem(self, backbone: Any, inputs: Tensor) -> Tensor:
        """Run what comes before all layers."""
        return inputs

    def stages(self, backbone: Any) -> list[nn.Module]:
        """Return the blocks of each stage, without the layers that they are grouped in."""
        layers = self.layers(backbone)
        return [nn.Sequential(*(block for index in part for block in _blocks(layers[index]))) for part in self._ranges]

    def tail(self, backbone: Any) -> nn.Module:
        """Return the last convolution with norm and activation."""
        return self.layers(backbone)[-1]

    def forward(self, backbone: Any, inputs: Tensor) -> StageOutputs:
        """Run stem, stages and tail."""
        x = self.stem(backbone, inputs)
        taps, outputs = [], []
        ends = [part[-1] for part in self._ranges]
        for index, layer in enumerate(self.layers(backbone)):
            x = layer(x)
            if index in backbone.out_indices:
                outputs.append(x)
            if index in ends:
                taps.append(x)
        return StageOutputs(taps, x, tuple(outputs))

    def feature_shapes(self, backbone: Any) -> list[tuple[int, int]]:
        """Return channels and total stride after each stage."""
        layers = self.layers(backbone)
        channels = [self.block_channels(_blocks(layers[part[-1]])[-1]) for part in self._ranges]
        return list(zip(channels, self._strides, strict=True))

    def out_channels(self, backbone: Any) -> int:
        """Return the channels after the last convolution."""
        return self.tail(backbone).out_channels  # type: ignore[return-value]

    def repeat_last_stage(self, backbone: Any) -> None:
        """Give the first block of the last stage stride 1 and the channels of the last block as input."""
        layer = self.layers(backbone)[self._ranges[-1][0]]
        first = _blocks(layer)[0]
        parent, _, name = {id(module): path for path, module in backbone.named_modules()}[id(first)].rpartition(".")
        channels = self.feature_shapes(backbone)[-1][0]
        setattr(backbone.get_submodule(parent), name, self.first_block(backbone, first, channels))


def _blocks(layer: nn.Module) -> list[Any]:
    return list(layer) if isinstance(layer, nn.Sequential) else [layer]


class MobileNetV2Stages(LayeredStages):
    """Stages of MobileNetV2, as the papers split its variant for CIFAR: taps are outputs of linear bottlenecks."""

    def stem(self, backbone: Any, inputs: Tensor) -> Tensor:
        """Run the first convolution, which ``out_indices`` does not count."""
        return backbone.conv1(inputs)

    def layers(self, backbone: Any) -> list[Any]:
        """Return the groups of bottlenecks and the last convolution."""
        return [getattr(backbone, name) for name in backbone.layers]

    def layer_strides(self, backbone: Any) -> list[int]:
        """Return the stride of each group."""
        return [stride for *_, stride in backbone.arch_settings]

    def block_channels(self, block: Any) -> int:
        """Return the channels after the linear convolution."""
        return block.conv[-1].out_channels

    def first_block(self, backbone: Any, block: Any, channels: int) -> nn.Module:
        """Return a bottleneck of stride 1."""
        expansion = next(ratio for ratio, *_, stride in reversed(backbone.arch_settings) if stride > 1)
        settings = {name: getattr(backbone, name) for name in ("conv_cfg", "norm_cfg", "act_cfg", "with_cp")}
        return LinearBottleneck(channels, self.block_channels(block), 1, expansion, **settings)


class MobileNetV3Stages(LayeredStages):
    """Stages of MobileNetV3."""

    first_layer = 1

    def layers(self, backbone: Any) -> list[Any]:
        """Return the first convolution, the blocks and the last convolution."""
        return [getattr(backbone, name) for name in backbone.layers]

    def layer_strides(self, backbone: Any) -> list[int]:
        """Return the stride of each block."""
        return [stride for *_, stride in backbone.arch_settings[backbone.arch]]

    def block_channels(self, block: Any) -> int:
        """Return the channels after the linear convolution."""
        return block.linear_conv.out_channels

    def first_block(self, backbone: Any, block: Any, channels: int) -> nn.Module:
        """Return a block of stride 1 with as many inner channels."""
        depthwise, squeeze = block.depthwise_conv, None
        if block.with_se:
            convolutions = (block.se.conv1, block.se.conv2)
            squeeze = {
                "channels": depthwise.out_channels,
                "squeeze_channels": convolutions[0].out_channels,
                "act_cfg": tuple(convolution.act_cfg for convolution in convolutions),
            }
        return InvertedResidual(
            channels,
            self.block_channels(block),
            depthwise.out_channels,
            depthwise.kernel_size[0],
            se_cfg=squeeze,
            conv_cfg=backbone.conv_cfg,
            norm_cfg=backbone.norm_cfg,
            act_cfg=depthwise.act_cfg,
            with_cp=backbone.with_cp,
        )


class EfficientNetStages(LayeredStages):
    """Stages of EfficientNet, its variant for Edge TPUs included."""

    first_layer = 1

    def layers(self, backbone: Any) -> list[Any]:
        """Return the first convolution, the groups of blocks and the last convolution."""
        return list(backbone.layers)

    def layer_strides(self, backbone: Any) -> list[int]:
        """Return the stride of each group."""
        return [group[0][3] for group in backbone.layer_setting[1:-1]]

    def block_channels(self, block: Any) -> int:
        """Return the channels after the linear convolution."""
        return (block.conv2 if isinstance(block, EdgeResidual) else block.linear_conv).out_channels

    def first_block(self, backbone: Any, block: Any, channels: int) -> nn.Module:
        """Return a block of stride 1 with the expansion of the original."""
        kernel_size, _, se_ratio, _, expansion, _ = backbone.layer_setting[-2][0]
        inner = int(channels * expansion)
        squeeze = None
        if se_ratio > 0:
            activations = (backbone.act_cfg, {"type": "Sigmoid"})
            squeeze = {"channels": inner, "ratio": expansion * se_ratio, "divisor": 1, "act_cfg": activations}
        return InvertedResidual(
            channels,
            self.block_channels(block),
            inner,
            kernel_size,
            se_cfg=squeeze,
            conv_cfg=backbone.conv_cfg,
            norm_cfg=backbone.norm_cfg,
            act_cfg=backbone.act_cfg,
            drop_path_rate=block.drop_path.drop_prob if isinstance(block.drop_path, DropPath) else 0.0,
            with_cp=backbone.with_cp,
        )
