"""Pooled features after every stage of a backbone."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mmkdprune.models.branches import find_stage_protocol

from .features import frozen, pool_features


def extract_stage_features(
    backbone: nn.Module, dataloader: Iterable[dict[str, Any]], preprocessor: nn.Module, max_images: int
) -> list[Tensor]:
    """Run a frozen backbone over the first images and pool its feature maps after every stage.

    Args:
        backbone (nn.Module): With stages, see :func:`mmkdprune.models.branches.find_stage_protocol`.
        dataloader (Iterable[dict]): Batches with ``inputs``.
        preprocessor (nn.Module): Normalises them.
        max_images (int): How many images at most.

    Returns:
        list[Tensor]: One a stage, (N, D_l) each.
    """
    protocol = find_stage_protocol(backbone)
    device = next(backbone.parameters()).device
    stages: list[list[Tensor]] = []
    count = 0
    with frozen(backbone):
        for batch in dataloader:
            images = preprocessor.to(device)(batch, False)["inputs"][: max_images - count]
            pooled = [pool_features(tap).cpu() for tap in protocol.forward(backbone, images).taps]
            stages = stages or [[] for _ in pooled]
            for stage, features in zip(stages, pooled, strict=True):
                stage.append(features)
            count += len(images)
            if count >= max_images:
                break
    return [torch.cat(stage) for stage in stages]
