"""Branches: train-only classifiers that continue from an inner stage of the backbone."""

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import initialize
from torch import Tensor

from .fresh_copy import InitConfig, fresh_copy, without_pretrained
from .map_neck import FusedMap
from .stage_protocol import StageMaps, StageProtocol, lowest_map, pool

BRANCH_TYPES = ("auto", "stage_copy", "conv")
BRANCH_DEPTHS = ("full", "light")


class StageBranch(nn.Module):
    """Freshly initialised later stages, average pooling and a linear classifier.

    Args:
        stages (nn.Module): Maps the feature map of the tapped stage to one of the last stage's shape.
        channels (int): Channels of that last map, D.
        num_classes (int): Number of classes C.
        norm (nn.Module, optional): Norm of the pooled features. Defaults to none.
    """

    def __init__(self, stages: nn.Module, channels: int, num_classes: int, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.stages = stages
        self.norm = norm
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, tap: StageMaps, size: tuple[int, int] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Run the branch.

        Args:
            tap (Tensor): What the tapped stage gives, (N, C_i, H_i, W_i).
            size (tuple[int, int], optional): Height and width that the last feature map is pooled to where it differs,
                as it can with convolutional branches on odd sizes.

        Returns:
            tuple[Tensor, Tensor, Tensor]: Logits (N, C), last feature map (N, D, h, w), and what is classified: its
            spatial mean, after the norm where there is one, (N, D).
        """
        feat = self.stages(tap)
        if size is not None and feat.shape[-2:] != size:
            feat = F.adaptive_avg_pool2d(feat, size)
        pooled = pool(feat, self.norm)
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

    def forward(self, tap: StageMaps) -> Tensor:
        """Run the layers on the tapped map, (N, C_i, H_i, W_i); of several resolutions on the lowest."""
        return super().forward(lowest_map(tap))


BranchDepth = str | int | Sequence[str | int]


def _lighten(stage: nn.Module, in_channels: int, out_channels: int, blocks: int) -> nn.Module:
    what = (
        "branch_depth='light' keeps the first block" if blocks == 1 else f"branch_depth={blocks} keeps {blocks} blocks"
    )
    advice = "use branch_depth='full'."
    if callable(shortened := getattr(stage, "shortened", None)):
        return shortened(blocks)
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
    fuse: Any = None,
    init_cfg: InitConfig = None,
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
        fuse (nn.Module, optional): Part of the deployable network's neck that makes the last feature map of all that
            the backbone returns, see :func:`mmkdprune.models.branches.split_neck`. Defaults to none.
        init_cfg (dict | Sequence[dict], optional): How the model initialises all of its parts. Defaults to none.

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
    channels = protocol.out_channels(backbone) if fuse is None else fuse.out_channels
    branches = nn.ModuleList()
    for index in range(1, protocol.num_stages + tap_last):
        norm = None
        if copies:
            stages, norm = _copy_stages(backbone, protocol, index, kept[index - 1], fuse, init_cfg)
        else:
            stages = ConvStages(_conv_shapes(protocol.feature_shapes(backbone), index, channels))
        branch = StageBranch(stages, channels, num_classes, norm)
        if linear_init := _for_one_layer(init_cfg):
            initialize(branch.fc, linear_init)
        branches.append(branch)
    return branches


def _copy_stages(
    backbone: nn.Module, protocol: StageProtocol, index: int, blocks: int | None, fuse: Any, init_cfg: InitConfig
) -> tuple[nn.Sequential, nn.Module | None]:
    """Fresh copies of what follows stage ``index`` (counted from 1); the last stage is followed by itself.

    Returns:
        tuple[nn.Sequential, nn.Module | None]: Stages with tail, and the norm of pooled features.
    """
    is_last = index == protocol.num_stages
    change = protocol.repeat_last_stage if is_last else None
    duplicate = fresh_copy(backbone, change, init_cfg, protocol.not_copied(backbone))
    stages = protocol.stages(duplicate)[index - is_last :]
    if blocks is not None:
        channels = [width for width, _ in protocol.feature_shapes(backbone)]
        channels = [*channels[index - 1 :], *(channels[-1:] if is_last else [])]
        stages = [
            _lighten(stage, *pair, blocks) for stage, pair in zip(stages, itertools.pairwise(channels), strict=True)
        ]
    tail = protocol.tail(duplicate) if fuse is None else FusedMap(fresh_copy(fuse, init_cfg=init_cfg))
    layers = stages if isinstance(tail, nn.Identity) else [*stages, tail]
    return nn.Sequential(*layers), protocol.final_norm(duplicate)


def _for_one_layer(init_cfg: InitConfig) -> list[dict]:
    """What an ``init_cfg`` says of a layer that stands alone."""
    known = without_pretrained(init_cfg) or []
    items = [known] if isinstance(known, dict) else known
    return [{key: value for key, value in item.items() if key != "override"} for item in items if "layer" in item]


def _conv_shapes(shapes: list[tuple[int, int]], index: int, channels: int) -> list[tuple[int, int]]:
    """Shapes from stage ``index`` (counted from 1) to the last map; the last stage is followed by itself."""
    shapes = [*shapes[index - 1 :], *(shapes[-1:] if index == len(shapes) else [])]
    return [*shapes[:-1], (channels, shapes[-1][1])]
