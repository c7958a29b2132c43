"""How a backbone splits into a stem, stages and a tail; see :mod:`.stages` for how the split of a class is found."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import torch.nn as nn
from torch import Tensor

# What a stage gives: a feature map, or those of all resolutions, the lowest last.
StageMaps: TypeAlias = Tensor | tuple[Tensor, ...]


class StageOutputs(NamedTuple):
    """What one run of a backbone gives.

    Attributes:
        taps (list[Tensor]): The L feature maps after each stage, (N, C_l, H_l, W_l). Of a network that works at several
            resolutions at once (HRNet) a tuple of maps each, the lowest resolution last.
        last_map (Tensor): The feature map that is pooled and classified, (N, D, h, w): the last tap after the tail.
        outputs (Any): What ``backbone(inputs)`` returns.
    """

    taps: list[Any]
    last_map: Tensor
    outputs: Any


def lowest_map(maps: StageMaps) -> Tensor:
    """Return the map of the lowest resolution of what a stage gives, (N, C, H, W)."""
    return maps[-1] if isinstance(maps, tuple | list) else maps


def pool(feat: Tensor, norm: nn.Module | None = None) -> Tensor:
    """Average a feature map over its pixels.

    Args:
        feat (Tensor): Feature map, (N, D, h, w).
        norm (nn.Module, optional): Norm of the pooled features, for maps. Defaults to none.

    Returns:
        Tensor: Pooled features, (N, D).
    """
    return feat.mean((2, 3)) if norm is None else norm(feat.mean((2, 3), keepdim=True)).flatten(1)


class StageProtocol(ABC):
    """How to run a backbone stage by stage.

    A backbone is a stem, L stages and a tail: what it does between the last stage and pooling, such as the last norm of
    a pre-activation network (nothing in most). Implementations keep no reference to the backbone, so that models can be
    copied and wrapped freely; the modules they return are those of the backbone, or containers made of them.

    Attributes:
        num_stages (int): Number of stages L.
        can_copy (bool): Whether :meth:`stages` returns modules that can be rebuilt as a branch.
        has_classifier (bool): Whether the backbone ends in a classifier of its own, whose scores it returns.
    """

    num_stages: int
    can_copy: bool = True
    has_classifier: bool = False

    @abstractmethod
    def forward(self, backbone: Any, inputs: Tensor) -> StageOutputs:
        """Run the backbone once.

        Args:
            backbone (nn.Module): The backbone.
            inputs (Tensor): Images, (N, C, H, W).

        Returns:
            StageOutputs: The feature maps after each stage and what the backbone itself returns.
        """

    @abstractmethod
    def stages(self, backbone: Any) -> list[nn.Module]:
        """Return the L stage modules in order; each maps the feature map of the one before to its own."""

    @abstractmethod
    def feature_shapes(self, backbone: Any) -> list[tuple[int, int]]:
        """Return channels and total stride after each stage, L pairs (of the lowest resolution, if there are more)."""

    @abstractmethod
    def repeat_last_stage(self, backbone: Any) -> None:
        """Replace the last stage by one that continues from its own output: stride 1, as many channels in as out."""

    def tail(self, backbone: Any) -> nn.Module:
        """Return the module between the last stage and pooling, an ``nn.Identity`` where there is none."""
        return nn.Identity()

    def final_norm(self, backbone: Any) -> nn.Module | None:
        """Return the norm that the backbone applies to pooled features, (N, D, 1, 1); None where there is none."""
        return None

    def finish(self, backbone: Any, tap: StageMaps, last_map: Tensor) -> Any:
        """Compute what the backbone returns of its last stage.

        Args:
            backbone (nn.Module): The backbone.
            tap (Tensor): What the last stage gave.
            last_map (Tensor): The same after the tail.

        Returns:
            Any: The last of what ``backbone(inputs)`` returns, in the same form.
        """
        return (last_map,)

    def modules_after_stages(self, backbone: Any) -> list[nn.Module]:
        """Return what the backbone runs after its last stage."""
        norm = self.final_norm(backbone)
        return [self.tail(backbone), *([] if norm is None else [norm])]

    def not_copied(self, backbone: Any) -> list[nn.Module]:
        """Return sub-modules that no branch needs, so large that copying them for nothing is felt."""
        return []

    def resume(self, backbone: Any, taps: Sequence[StageMaps], number: int) -> StageOutputs:
        """Run what follows a stage.

        Args:
            backbone (nn.Module): The backbone.
            taps (Sequence[Tensor]): The feature maps after each stage up to that one, or more.
            number (int): How many stages are not run.

        Returns:
            StageOutputs: As of :meth:`forward`; ``outputs`` holds the last output only.
        """
        maps = list(taps[:number])
        for stage in self.stages(backbone)[number:]:
            maps.append(stage(maps[-1]))
        last_map = self.tail(backbone)(maps[-1])
        return StageOutputs(maps, last_map, self.finish(backbone, maps[-1], last_map))

    def out_channels(self, backbone: Any) -> int:
        """Return the channels of ``last_map``, D."""
        return self.feature_shapes(backbone)[-1][0]

    def output_channels(self, backbone: Any) -> list[int]:
        """Return the channels of what the backbone returns for each stage, were all of them in ``out_indices``."""
        return [*(channels for channels, _ in self.feature_shapes(backbone)[:-1]), self.out_channels(backbone)]
