"""Stages of MMPretrain's DenseNet."""

from typing import Any

import torch.nn as nn
from mmpretrain.models.backbones.densenet import DenseNet
from torch import Tensor

from ..stage_protocol import StageOutputs, StageProtocol


class DenseNetStages(StageProtocol):
    """Stages of DenseNet: a dense block each, with the transition before it; the last norm and activation are a tail.

    Taps are what the dense blocks give, before the norm of the transition. The backbone itself returns feature maps
    after the transitions.

    Args:
        backbone (DenseNet): The backbone.
    """

    def __init__(self, backbone: DenseNet) -> None:
        self.num_stages = backbone.num_stages

    def stages(self, backbone: Any) -> list[nn.Module]:
        """Return the first dense block, and transition and dense block of the others."""
        first, *others = backbone.stages
        return [first, *(nn.Sequential(*pair) for pair in zip(backbone.transitions, others, strict=False))]

    def tail(self, backbone: Any) -> nn.Module:
        """Return the last norm and activation."""
        return backbone.transitions[-1]

    def forward(self, backbone: Any, inputs: Tensor) -> StageOutputs:
        """Run stem, dense blocks and transitions."""
        x = backbone.stem(inputs)
        taps, outputs = [], []
        for index, (stage, transition) in enumerate(zip(backbone.stages, backbone.transitions, strict=True)):
            taps.append(stage(x))
            x = transition(taps[-1])
            if index in backbone.out_indices:
                outputs.append(x)
        return StageOutputs(taps, x, tuple(outputs))

    def feature_shapes(self, backbone: Any) -> list[tuple[int, int]]:
        """Return channels and total stride after each dense block."""
        norms = [transition[0] for transition in backbone.transitions]
        return [(norm.num_features, 4 * 2**index) for index, norm in enumerate(norms)]

    def output_channels(self, backbone: Any) -> list[int]:
        """Return the channels after each transition."""
        return [
            *(transition.conv.out_channels for transition in backbone.transitions[:-1]),
            self.out_channels(backbone),
        ]

    def repeat_last_stage(self, backbone: Any) -> None:
        """Let the last transition take the channels of the last dense block, and leave its pooling out."""
        transition, final_norm = backbone.transitions[-2], backbone.transitions[-1][0]
        channels = self.out_channels(backbone)
        transition.norm = type(final_norm)(channels, eps=final_norm.eps, momentum=final_norm.momentum)
        transition.conv = nn.Conv2d(channels, transition.conv.out_channels, 1, bias=False)
        transition.pool = nn.Identity()
