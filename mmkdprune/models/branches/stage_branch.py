"""Branches: train-only classifiers that continue from an inner stage of the backbone."""

import itertools

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .stages import StageProtocol, fresh_copy

BRANCH_TYPES = ("auto", "stage_copy", "conv")
BRANCH_DEPTHS = ("full", "light")


class StageBranch(nn.Module):
    """Freshly initialised later stages, average pooling and a linear classifier.

    Args:
        stages (nn.Module): Maps the feature map of the tapped stage to one of the last stage's shape.
        channels (int): Channels of that last map, D.
        num_classes (int): Number of classes C.
    """

    def __init__(self, stages: nn.Module, channels: int, num_classes: int) -> None:
        super().__init__()
        self.stages = stages
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, tap: Tensor, size: tuple[int, int] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Run the branch.

        Args:
            tap (Tensor): The tapped feature map, (N, C_i, H_i, W_i).
            size (tuple[int, int], optional): Height and width that the last feature map is pooled to where it differs,
                as it can with convolutional branches on odd sizes.

        Returns:
            tuple[Tensor, Tensor, Tensor]: Logits (N, C), last feature map (N, D, h, w), its spatial mean (N, D).
        """
        feat = self.stages(tap)
        if size is not None and feat.shape[-2:] != size:
            feat = F.adaptive_avg_pool2d(feat, size)
        pooled = feat.mean((2, 3))
        return self.fc(pooled), feat, pooled


class ConvStages(nn.Sequential):
    """Convolutional stand-in for later stages: a 3x3 convolution, batch norm and ReLU for each of them.

    Args:
        shapes (list[tuple[int, int]]): Channels and total stride of the tapped stage and of all stages after it.
    """

    def __init__(self, shapes: list[tuple[int, int]]) -> None:
        layers: list[nn.Module] = []
        for (in_channels, in_stride), (out_channels, out_stride) in itertools.pairwise(shapes):
            stride = max(1, round(out_stride / in_stride))
            layers += [
                nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers)


def _lighten(stage: nn.Module) -> nn.Module:
    if not isinstance(stage, nn.Sequential):
        raise ValueError(
            f"branch_depth='light' keeps the first block of a stage, but a stage of type {type(stage).__name__} is no "
            "nn.Sequential of blocks: use branch_depth='full'."
        )
    return nn.Sequential(stage[0])


def build_branches(
    backbone: nn.Module,
    protocol: StageProtocol,
    num_classes: int,
    branch_type: str = "auto",
    branch_depth: str = "full",
) -> nn.ModuleList:
    """Make one branch after every stage but the last.

    The branches are complete when they are returned (no ``init_weights`` is owed), since copies of stages are
    initialised by the backbone class they come from.

    Args:
        backbone (nn.Module): The deployable network's backbone. It is not changed.
        protocol (StageProtocol): Its stages.
        num_classes (int): Number of classes C of every branch.
        branch_type (str): ``'stage_copy'``: fresh copies of stages i+1..L; ``'conv'``: one 3x3 convolution for each of
            them; ``'auto'``: copies where the backbone's stages are known, convolutions otherwise.
        branch_depth (str): ``'full'`` keeps every block of a copied stage, ``'light'`` the first one (the authors'
            earlier ImageNet revision). Convolutional branches have one layer a stage either way.

    Returns:
        nn.ModuleList: L - 1 :class:`StageBranch`, the first after stage 1.

    Raises:
        ValueError: If an option value is unknown, or the stages of this backbone cannot be copied.
    """
    if branch_type not in BRANCH_TYPES:
        raise ValueError(f"branch_type must be one of {BRANCH_TYPES}, got {branch_type!r}.")
    if branch_depth not in BRANCH_DEPTHS:
        raise ValueError(f"branch_depth must be one of {BRANCH_DEPTHS}, got {branch_depth!r}.")
    if branch_type == "stage_copy" and not protocol.can_copy:
        raise ValueError(
            f"branch_type='stage_copy' needs a backbone whose stages are known, {type(backbone).__name__} is not: use "
            "branch_type='conv' or 'auto', or describe it with mmkdprune.models.branches.register_stage_protocol."
        )
    copy_stages = protocol.can_copy and branch_type != "conv"
    shapes = protocol.feature_shapes(backbone)
    branches = nn.ModuleList()
    for index in range(1, protocol.num_stages):
        stages: nn.Module
        if copy_stages:
            copies = protocol.stages(fresh_copy(backbone))[index:]
            stages = nn.Sequential(*(copies if branch_depth == "full" else map(_lighten, copies)))
        else:
            stages = ConvStages(shapes[index - 1 :])
        branches.append(StageBranch(stages, shapes[-1][0], num_classes))
    return branches
