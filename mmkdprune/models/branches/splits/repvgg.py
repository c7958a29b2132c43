"""Stages of MMPretrain's RepVGG."""

from typing import Any

import torch.nn as nn
from mmpretrain.models.backbones.repvgg import RepVGG, RepVGGBlock
from torch import Tensor

from ..stage_protocol import StageOutputs, StageProtocol


class RepVGGStages(StageProtocol):
    """Stages of RepVGG in the form in which it is trained; spatial pyramid pooling at the end is a tail.

    Args:
        backbone (RepVGG): The backbone.

    Raises:
        ValueError: If the blocks were fused for inference.
    """

    def __init__(self, backbone: RepVGG) -> None:
        if backbone.deploy:
            raise ValueError(
                "backbone RepVGG is in the form for inference (deploy=True), whose fused blocks are not trained: set "
                "model.backbone.deploy=False and fuse the trained network."
            )
        self.num_stages = len(backbone.stages)

    def stages(self, backbone: Any) -> list[nn.Module]:
        """Return the stages."""
        return [getattr(backbone, name) for name in backbone.stages]

    def tail(self, backbone: Any) -> nn.Module:
        """Return the pyramid pooling, an identity in most."""
        return backbone.ppf

    def forward(self, backbone: Any, inputs: Tensor) -> StageOutputs:
        """Run stem, stages and tail."""
        x = backbone.stem(inputs)
        taps = []
        for stage in self.stages(backbone):
            x = stage(x)
            taps.append(x)
        last_map = backbone.ppf(x)
        maps = [*taps[:-1], last_map]
        return StageOutputs(taps, last_map, tuple(maps[i] for i in range(len(maps)) if i in backbone.out_indices))

    def feature_shapes(self, backbone: Any) -> list[tuple[int, int]]:
        """Return channels and total stride after each stage."""
        shapes, stride = [], 2
        for stage, stage_stride in zip(self.stages(backbone), backbone.strides, strict=True):
            stride *= stage_stride
            shapes.append((stage[-1].out_channels, stride))  # type: ignore[index]
        return shapes

    def repeat_last_stage(self, backbone: Any) -> None:
        """Give the first block of the last stage stride 1 and no change of channels."""
        stage: Any = self.stages(backbone)[-1]
        first, channels = stage[0], stage[-1].out_channels
        names = ("padding", "dilation", "groups", "se_cfg", "with_cp", "conv_cfg", "norm_cfg", "act_cfg", "init_cfg")
        settings = {name: getattr(first, name) for name in names}
        stage[0] = RepVGGBlock(channels, first.out_channels, stride=1, **settings)
