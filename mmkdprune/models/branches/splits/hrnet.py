"""Stages of MMPretrain's HRNet."""

from collections.abc import Sequence
from typing import Any

import torch.nn as nn
from torch import Tensor

from ..stage_protocol import StageMaps, StageOutputs, StageProtocol, lowest_map


class HRNetStage(nn.Module):
    """A transition to one more resolution, and the modules that exchange features between all resolutions.

    Args:
        transition (nn.ModuleList): One layer a resolution.
        modules (Sequence[nn.Module]): Modules that map a list of feature maps to another.
    """

    def __init__(self, transition: nn.ModuleList, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.transition = transition
        self.blocks = nn.Sequential(*modules)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Map the feature maps of all resolutions, (N, C_r, H_r, W_r) each, to those of the next stage."""
        inputs = [layer(maps[min(index, len(maps) - 1)]) for index, layer in enumerate(self.transition)]
        return tuple(self.blocks(inputs))

    def shortened(self, number: int) -> "HRNetStage":
        """Return the transition with fewer modules."""
        return HRNetStage(self.transition, list(self.blocks)[-number:])  # the last may give the first map only


class LowestMap(nn.Module):
    """The map of the lowest resolution."""

    def forward(self, maps: StageMaps) -> Tensor:
        """Return it, (N, C, H, W)."""
        return lowest_map(maps)


class HRNetStages(StageProtocol):
    """Stages of HRNet. A tap holds the feature maps of all resolutions, and so does what the backbone returns."""

    num_stages = 4

    def __init__(self, backbone: Any) -> None:
        pass

    def stages(self, backbone: Any) -> list[nn.Module]:
        """Return the first stage, and transition and modules of the others."""
        pairs = [(getattr(backbone, f"transition{i - 1}"), getattr(backbone, f"stage{i}")) for i in (2, 3, 4)]
        return [backbone.layer1, *(HRNetStage(transition, list(stage)) for transition, stage in pairs)]

    def tail(self, backbone: Any) -> nn.Module:
        """Return what picks the map of the lowest resolution."""
        return LowestMap()

    def forward(self, backbone: Any, inputs: Tensor) -> StageOutputs:
        """Run stem and stages."""
        x = backbone.relu(backbone.norm1(backbone.conv1(inputs)))
        x = backbone.relu(backbone.norm2(backbone.conv2(x)))
        taps: list[tuple[Tensor, ...]] = [(backbone.layer1(x),)]
        for number in (2, 3, 4):
            maps = taps[-1]
            transition = getattr(backbone, f"transition{number - 1}")
            inputs_ = [layer(maps[min(index, len(maps) - 1)]) for index, layer in enumerate(transition)]
            taps.append(tuple(getattr(backbone, f"stage{number}")(inputs_)))
        return StageOutputs(taps, taps[-1][-1], taps[-1])

    def finish(self, backbone: Any, tap: StageMaps, last_map: Tensor) -> Any:
        """Return the feature maps of all resolutions."""
        return tap

    def modules_after_stages(self, backbone: Any) -> list[nn.Module]:
        """Return nothing."""
        return []

    def feature_shapes(self, backbone: Any) -> list[tuple[int, int]]:
        """Return channels and total stride of the lowest resolution after each stage."""
        shapes = [(backbone.layer1[-1].out_channels, 4)]
        for number in (2, 3, 4):
            channels = self._channels(backbone, number)
            shapes.append((channels[-1], 4 * 2 ** (len(channels) - 1)))
        return shapes

    def output_channels(self, backbone: Any) -> list[int]:
        """Return the channels of the four resolutions."""
        return self._channels(backbone, 4)

    def repeat_last_stage(self, backbone: Any) -> None:
        """Let the last stage take its own output, without a change of resolutions."""
        inner = backbone.stage4[-1].in_channels
        backbone.transition3 = backbone._make_transition_layer(self._channels(backbone, 4), inner)

    @staticmethod
    def _channels(backbone: Any, number: int) -> list[int]:
        last = getattr(backbone, f"stage{number}")[-1]
        return list(last.in_channels[: len(last.fuse_layers)])
