"""Branches: train-only classifiers that continue from an inner stage of the backbone."""

import copy
import itertools
from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .stage_protocol import StageProtocol
from .stages import fresh_copy

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


BranchDepth = str | int | Sequence[str | int]


def _lighten(stage: nn.Module, in_channels: int, out_channels: int, blocks: int) -> nn.Module:
    what = (
        "branch_depth='light' keeps the first block" if blocks == 1 else f"branch_depth={blocks} keeps {blocks} blocks"
    )
    advice = "use branch_depth='full'."
    if not isinstance(stage, nn.Sequential):
        raise ValueError(
            f"{what} of a stage, but a stage of type {type(stage).__name__} is no nn.Sequential of blocks: {advice}"
        )
    lightened = nn.Sequential(*list(stage)[:blocks])
    with torch.no_grad():
        channels = copy.deepcopy(lightened).eval()(torch.zeros(1, in_channels, 8, 8)).shape[1]
    if channels != out_channels:
        raise ValueError(
            f"{what} of a stage, but here that block gives {channels} channels and the stage {out_channels}: {advice}"
        )
    return lightened


def _blocks_kept(branch_depth: BranchDepth, number: int) -> list[int | None]:
    """Read how many blocks of a stage each branch keeps; None stands for all."""
    depths = [branch_depth] * number if isinstance(branch_depth, str | int) else list(branch_depth)
    if len(depths) != number:
        raise ValueError(f"branch_depth has {len(depths)} entries for {number} branches, got {branch_depth!r}.")
    for depth in depths:
        if isinstance(depth, bool) or not (depth in BRANCH_DEPTHS or (isinstance(depth, int) and depth > 0)):
            raise ValueError(
                f"branch_depth must be one of {BRANCH_DEPTHS} or a positive number of blocks, got {depth!r}."
            )
    return [{"full": None, "light": 1}[depth] if isinstance(depth, str) else depth for depth in depths]


def build_branches(
    backbone: nn.Module,
    protocol: StageProtocol,
    num_classes: int,
    branch_type: str = "auto",
    branch_depth: BranchDepth = "full",
    tap_last: bool = False,
) -> nn.ModuleList:
    """Make one branch after every stage but the last, or after every stage.

    The branches are complete when they are returned (no ``init_weights`` is owed), since copies of stages are
    initialised by the backbone class they come from.

    Args:
        backbone (nn.Module): The deployable network's backbone. It is not changed.
        protocol (StageProtocol): Its stages.
        num_classes (int): Number of classes C of every branch.
        branch_type (str): ``'stage_copy'``: fresh copies of stages i+1..L and of the tail; ``'conv'``: one 3x3
            convolution for each stage; ``'auto'``: copies where the backbone's stages are known, else convolutions.
        branch_depth (str | int | Sequence): ``'full'`` keeps every block of a copied stage, ``'light'`` the first one
            (the authors' earlier ImageNet revision of MixSKD), a number so many of them; a list holds one entry a
            branch. Convolutional branches have one layer a stage either way.
        tap_last (bool): Whether the last stage gets a branch, too: one more copy of that stage, with stride 1 and as
            many input as output channels (HSAKD). Defaults to False.

    Returns:
        nn.ModuleList: L - 1 (or L) :class:`StageBranch`, the first after stage 1.

    Raises:
        ValueError: If an option value is unknown, or the stages of this backbone cannot be copied.
    """
    if branch_type not in BRANCH_TYPES:
        raise ValueError(f"branch_type must be one of {BRANCH_TYPES}, got {branch_type!r}.")
    kept = _blocks_kept(branch_depth, protocol.num_stages + tap_last - 1)
    if branch_type == "stage_copy" and not protocol.can_copy:
        raise ValueError(
            f"branch_type='stage_copy' needs a backbone whose stages are known, {type(backbone).__name__} is not: use "
            "branch_type='conv' or 'auto', or describe it with mmkdprune.models.branches.register_stage_protocol."
        )
    copies = protocol.can_copy and branch_type != "conv"
    channels = protocol.out_channels(backbone)
    branches = nn.ModuleList()
    for index in range(1, protocol.num_stages + tap_last):
        if copies:
            stages = _copy_stages(backbone, protocol, index, kept[index - 1])
        else:
            stages = ConvStages(_conv_shapes(protocol.feature_shapes(backbone), index, channels))
        branches.append(StageBranch(stages, channels, num_classes))
    return branches


def _copy_stages(backbone: nn.Module, protocol: StageProtocol, index: int, blocks: int | None) -> nn.Sequential:
    """Fresh copies of what follows stage ``index`` (counted from 1); the last stage is followed by itself."""
    is_last = index == protocol.num_stages
    duplicate = fresh_copy(backbone, protocol.repeat_last_stage if is_last else None)
    stages = protocol.stages(duplicate)[index - is_last :]
    if blocks is not None:
        channels = [width for width, _ in protocol.feature_shapes(backbone)]
        channels = [*channels[index - 1 :], *(channels[-1:] if is_last else [])]
        stages = [
            _lighten(stage, *pair, blocks) for stage, pair in zip(stages, itertools.pairwise(channels), strict=True)
        ]
    tail = protocol.tail(duplicate)
    return nn.Sequential(*stages) if isinstance(tail, nn.Identity) else nn.Sequential(*stages, tail)


def _conv_shapes(shapes: list[tuple[int, int]], index: int, channels: int) -> list[tuple[int, int]]:
    """Shapes from stage ``index`` (counted from 1) to the last map; the last stage is followed by itself."""
    shapes = [*shapes[index - 1 :], *(shapes[-1:] if index == len(shapes) else [])]
    return [*shapes[:-1], (channels, shapes[-1][1])]
