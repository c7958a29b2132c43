"""Stages of MMPretrain's VGG."""

import itertools
from typing import Any

import torch.nn as nn
from mmcv.cnn import ConvModule
from mmpretrain.models.backbones.vgg import VGG
from torch import Tensor

from ..stage_protocol import StageMaps, StageOutputs, StageProtocol


class VGGBlocks(nn.Sequential):
    """Convolutions, and the pooling at the end of each block of them."""

    def shortened(self, number: int) -> nn.Sequential:
        """Return the first convolutions with all of the pooling."""
        convolutions = [layer for layer in self if isinstance(layer, ConvModule)]
        return VGGBlocks(*convolutions[:number], *(layer for layer in self if not isinstance(layer, ConvModule)))


class VGGStages(StageProtocol):
    """Stages of VGG: a block with its pooling each, the first two blocks of five together.

    So the strides are those of other networks, 4 to 32. A classifier inside the backbone is not copied: branches have
    pooling and a linear layer in its place.

    Args:
        backbone (VGG): The backbone.
    """

    def __init__(self, backbone: VGG) -> None:
        number = len(backbone.stage_blocks)
        self._ends = list(range(number - 4 if number > 4 else 1, number + 1))[-4:]
        self.num_stages = len(self._ends)
        self.has_classifier = backbone.num_classes > 0

    def stages(self, backbone: Any) -> list[nn.Module]:
        """Return the convolutions and poolings of each stage."""
        layers = getattr(backbone, backbone.module_name)
        bounds = [0, *(backbone.range_sub_modules[end - 1][1] for end in self._ends)]
        return [VGGBlocks(*(layers[i] for i in range(a, b))) for a, b in itertools.pairwise(bounds)]

    def forward(self, backbone: Any, inputs: Tensor) -> StageOutputs:
        """Run the blocks, and the classifier where there is one."""
        layers = getattr(backbone, backbone.module_name)
        x, taps, outputs = inputs, [], []
        for block, bounds in enumerate(backbone.range_sub_modules):
            for index in range(*bounds):
                x = layers[index](x)
            if block in backbone.out_indices:
                outputs.append(x)
            if block + 1 in self._ends:
                taps.append(x)
        if self.has_classifier:
            outputs.append(self._classify(backbone, x))
        return StageOutputs(taps, x, tuple(outputs))

    def finish(self, backbone: Any, tap: StageMaps, last_map: Tensor) -> Any:
        """Return the scores of the classifier, or the last map."""
        return (self._classify(backbone, last_map) if self.has_classifier else last_map,)

    def modules_after_stages(self, backbone: Any) -> list[nn.Module]:
        """Return the classifier."""
        return [backbone.classifier] if self.has_classifier else []

    def not_copied(self, backbone: Any) -> list[nn.Module]:
        """Return the classifier, which holds most of the weights."""
        return self.modules_after_stages(backbone)

    def feature_shapes(self, backbone: Any) -> list[tuple[int, int]]:
        """Return channels and total stride after each stage."""
        shapes, stride = [], 1
        for stage in self.stages(backbone):
            convolutions = [layer for layer in stage if isinstance(layer, ConvModule)]  # type: ignore[attr-defined]
            stride *= 2 ** sum(isinstance(layer, nn.MaxPool2d) for layer in stage)  # type: ignore[attr-defined]
            shapes.append((convolutions[-1].out_channels, stride))
        return shapes

    def repeat_last_stage(self, backbone: Any) -> None:
        """Leave the pooling of the last block out, and let it take its own channels."""
        layers = getattr(backbone, backbone.module_name)
        channels = self.out_channels(backbone)
        start, end = backbone.range_sub_modules[-1]
        first = layers[start]
        if first.in_channels != channels:
            layers[start] = ConvModule(
                channels,
                first.out_channels,
                3,
                padding=first.padding,
                dilation=first.dilation,
                bias=True,
                conv_cfg=first.conv_cfg,
                norm_cfg=first.norm_cfg,
                act_cfg=first.act_cfg,
            )
        for index in range(start, end):
            if isinstance(layers[index], nn.MaxPool2d):
                layers[index] = nn.Identity()

    @staticmethod
    def _classify(backbone: Any, last_map: Tensor) -> Tensor:
        return backbone.classifier(last_map.flatten(1))
