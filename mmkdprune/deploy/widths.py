"""Widths of a backbone's feature maps, and the parts of a config that read them."""

from typing import Any

import torch
from torch import nn

from mmkdprune.pruning.forward import flat
from mmkdprune.pruning.modes import evaluating

TASK_HEADS = ("bbox_head", "rpn_head", "roi_head", "mask_head", "panoptic_head", "decode_head")


def feature_channels(backbone: nn.Module, image_shape: tuple[int, int, int]) -> list[int]:
    """Channels of the feature maps (or the vector) that a backbone gives."""
    parameter = next(backbone.parameters())
    images = torch.zeros((2, *image_shape), device=parameter.device, dtype=parameter.dtype)
    with evaluating(backbone), torch.no_grad():
        return [value.shape[1] for value in flat(backbone(images)) if isinstance(value, torch.Tensor)]


def set_inputs(model: dict[str, Any], channels: list[int]) -> None:
    """Give the parts that read a backbone its widths.

    Args:
        model: Config of the whole model, changed in place.
        channels: Channels of the backbone's feature maps.
    """
    neck = model.get("neck")
    if isinstance(neck, list | tuple) and neck:
        neck = neck[0]
    reads_backbone = [name for name in (*TASK_HEADS, "auxiliary_head", "head") if model.get(name)]
    if isinstance(neck, dict) and "in_channels" in neck:
        listed = isinstance(neck["in_channels"], list | tuple)
        neck["in_channels"] = list(channels) if listed else channels[-1]
        return
    for name in reads_backbone:
        heads = model[name] if isinstance(model[name], list | tuple) else [model[name]]
        for head in heads:
            if "in_channels" not in head or (name not in ("head", "decode_head", "auxiliary_head") and neck):
                continue
            index = head.get("in_index", -1)
            listed = isinstance(head["in_channels"], list | tuple)
            if listed:
                head["in_channels"] = [channels[one] for one in index] if isinstance(index, list | tuple) else channels
            else:
                head["in_channels"] = channels[index]
            if head.get("c1_in_channels"):  # DeepLabV3+ looks at the first map once more
                head["c1_in_channels"] = channels[0]
