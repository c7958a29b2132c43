"""Stages of MMPretrain's ConvNeXt (V1 and V2)."""

from typing import Any

import torch.nn as nn
from mmpretrain.models.backbones.convnext import ConvNeXt
from torch import Tensor

from ..stage_protocol import StageMaps, StageOutputs, StageProtocol, pool


class ConvNeXtStages(StageProtocol):
    """Stages of ConvNeXt: blocks and the downsampling before them, which for the first stage is the stem.

    With ``gap_before_final_norm`` the last norm takes pooled features, else it is a tail. Taps have no norm.

    Args:
        backbone (ConvNeXt): The backbone.
    """

    def __init__(self, backbone: ConvNeXt) -> None:
        self.num_stages = backbone.num_stages

    def stages(self, backbone: Any) -> list[nn.Module]:
        """Return the blocks of each stage, the first one behind the downsampling."""
        pairs = zip(backbone.downsample_layers, backbone.stages, strict=True)
        return [nn.Sequential(nn.Sequential(layer, blocks[0]), *list(blocks)[1:]) for layer, blocks in pairs]

    def tail(self, backbone: Any) -> nn.Module:
        """Return the last norm, unless it takes pooled features."""
        norm = self._last_norm(backbone)
        return nn.Identity() if norm is None or backbone.gap_before_final_norm else norm

    def final_norm(self, backbone: Any) -> nn.Module | None:
        """Return the last norm if it takes pooled features."""
        return self._last_norm(backbone) if backbone.gap_before_final_norm else None

    def forward(self, backbone: Any, inputs: Tensor) -> StageOutputs:
        """Run stages and norms."""
        x, taps, outputs = inputs, [], []
        last_map = None
        for index, (layer, blocks) in enumerate(zip(backbone.downsample_layers, backbone.stages, strict=True)):
            x = blocks(layer(x))
            taps.append(x)
            last_map = x
            if index in backbone.out_indices:
                norm = getattr(backbone, f"norm{index}")
                if backbone.gap_before_final_norm:
                    outputs.append(pool(x, norm))
                else:
                    outputs.append(last_map := norm(x))
        return StageOutputs(taps, last_map, tuple(outputs))  # type: ignore[arg-type]

    def finish(self, backbone: Any, tap: StageMaps, last_map: Tensor) -> Any:
        """Return the pooled features, or the last map."""
        norm = self.final_norm(backbone)
        return (last_map if norm is None else pool(last_map, norm),)

    def feature_shapes(self, backbone: Any) -> list[tuple[int, int]]:
        """Return channels and total stride after each stage."""
        shapes, stride = [], 1
        for index, (layer, blocks) in enumerate(zip(backbone.downsample_layers, backbone.stages, strict=True)):
            convolution = layer[0 if index == 0 else 1]
            stride *= convolution.stride[0]
            shapes.append((blocks[-1].depthwise_conv.out_channels, stride))
        return shapes

    def repeat_last_stage(self, backbone: Any) -> None:
        """Leave the downsampling out."""
        backbone.downsample_layers[-1] = nn.Identity()

    def _last_norm(self, backbone: Any) -> nn.Module | None:
        return getattr(backbone, f"norm{self.num_stages - 1}", None)
