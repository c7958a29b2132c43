"""What a description of a backbone's stages must offer; see :mod:`.stages` for how one is found."""

from typing import Any, NamedTuple, Protocol

import torch.nn as nn
from torch import Tensor


class StageOutputs(NamedTuple):
    """What one run of a backbone gives.

    Attributes:
        taps (list[Tensor]): The L feature maps after each stage, (N, C_l, H_l, W_l).
        last_map (Tensor): The feature map that is pooled and classified, (N, D, h, w): the last tap after the tail.
        outputs (Any): What ``backbone(inputs)`` returns.
    """

    taps: list[Tensor]
    last_map: Tensor
    outputs: Any


class StageProtocol(Protocol):
    """How to run a backbone stage by stage.

    A backbone is a stem, L stages and a tail: what it does between the last stage and pooling, such as the last norm of
    a pre-activation network (nothing in most). Implementations keep no reference to the backbone, so that models can be
    copied and wrapped freely.

    Attributes:
        num_stages (int): Number of stages L.
        can_copy (bool): Whether :meth:`stages` returns modules that can be rebuilt as a branch.
    """

    num_stages: int
    can_copy: bool

    def forward(self, backbone: nn.Module, inputs: Tensor) -> StageOutputs:
        """Run the backbone once.

        Args:
            backbone (nn.Module): The backbone.
            inputs (Tensor): Images, (N, C, H, W).

        Returns:
            StageOutputs: The feature maps after each stage and what the backbone itself returns.
        """

    def stages(self, backbone: nn.Module) -> list[nn.Module]:
        """Return the L stage modules in order; each maps the feature map of the one before to its own."""

    def tail(self, backbone: nn.Module) -> nn.Module:
        """Return the module between the last stage and pooling, an ``nn.Identity`` where there is none."""

    def feature_shapes(self, backbone: nn.Module) -> list[tuple[int, int]]:
        """Return channels and total stride after each stage, L pairs."""

    def out_channels(self, backbone: nn.Module) -> int:
        """Return the channels of ``last_map``, D."""

    def repeat_last_stage(self, backbone: nn.Module) -> None:
        """Replace the last stage by one that continues from its own output: stride 1, as many channels in as out."""
