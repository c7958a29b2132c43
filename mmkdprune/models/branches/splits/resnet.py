"""Stages of MMPretrain's ResNet line, and of RegNet."""

from typing import Any

import torch.nn as nn
from mmpretrain.models.backbones.resnet import ResNet
from mmpretrain.models.backbones.resnet_cifar import ResNet_CIFAR
from torch import Tensor

from ..stage_protocol import StageOutputs, StageProtocol


class ResNetStages(StageProtocol):
    """Stages of the ResNet line: ``layer1`` ... ``layerL`` after a stem."""

    def __init__(self, backbone: ResNet) -> None:
        self.num_stages = len(backbone.res_layers)

    def stages(self, backbone: Any) -> list[nn.Module]:
        """Return the residual layers."""
        return [getattr(backbone, name) for name in backbone.res_layers]

    def forward(self, backbone: Any, inputs: Tensor) -> StageOutputs:
        """Run stem and stages."""
        x = self.stem(backbone, inputs)
        taps = []
        for stage in self.stages(backbone):
            x = stage(x)
            taps.append(x)
        outputs = tuple(tap for index, tap in enumerate(taps) if index in backbone.out_indices)
        return StageOutputs(taps, taps[-1], outputs)

    def stem(self, backbone: Any, inputs: Tensor) -> Tensor:
        """Run what comes before the first stage."""
        if backbone.deep_stem:
            return backbone.maxpool(backbone.stem(inputs))
        x = backbone.relu(backbone.norm1(backbone.conv1(inputs)))
        return x if self.stem_stride(backbone) < 4 else backbone.maxpool(x)

    def stem_stride(self, backbone: Any) -> int:
        """Return the stride before the first stage."""
        return 1 if isinstance(backbone, ResNet_CIFAR) else 4

    def feature_shapes(self, backbone: Any) -> list[tuple[int, int]]:
        """Return channels and total stride after each stage."""
        stride = self.stem_stride(backbone)
        shapes = []
        for stage, stage_stride in zip(self.stages(backbone), backbone.strides, strict=True):
            stride *= stage_stride
            shapes.append((stage[-1].out_channels, stride))  # type: ignore[index]
        return shapes

    def out_channels(self, backbone: Any) -> int:
        """Return the channels of the last stage."""
        return self.stages(backbone)[-1][-1].out_channels  # type: ignore[index]

    def repeat_last_stage(self, backbone: Any) -> None:
        """Replace the last stage by one of as many blocks with stride 1 and no change of channels."""
        channels = self.out_channels(backbone)
        stage = backbone.make_res_layer(
            num_blocks=backbone.stage_blocks[-1],
            in_channels=channels,
            out_channels=channels,
            stride=1,
            dilation=backbone.dilations[-1],
            style=backbone.style,
            avg_down=backbone.avg_down,
            with_cp=backbone.with_cp,
            conv_cfg=backbone.conv_cfg,
            norm_cfg=backbone.norm_cfg,
            **self.block_settings(backbone),
        )
        setattr(backbone, backbone.res_layers[-1], stage)

    def block_settings(self, backbone: Any) -> dict[str, Any]:
        """Return what ``make_res_layer`` must know of the blocks of the last stage."""
        return {"block": backbone.block, "expansion": backbone.expansion}


class RegNetStages(ResNetStages):
    """Stages of RegNet, whose stem has no pooling."""

    def stem_stride(self, backbone: Any) -> int:
        """Return the stride before the first stage."""
        return 2

    def block_settings(self, backbone: Any) -> dict[str, Any]:
        """Return what ``make_res_layer`` must know of the grouped blocks of the last stage."""
        block = backbone.layer1[0]
        width = round(backbone.stage_widths[-1] * backbone.bottleneck_ratio[-1])
        return {
            "block": type(block),
            "expansion": 1,
            "base_channels": backbone.stage_widths[-1],
            "groups": width // backbone.group_widths[-1],
            "width_per_group": backbone.group_widths[-1],
        }
