"""Widths of a backbone's feature maps, and the parts of a config that read them."""

from typing import Any

import torch
from torch import nn

from mmkdprune.pruning.forward import flat
from mmkdprune.pruning.modes import evaluating

TASK_HEADS = ("bbox_head", "rpn_head", "roi_head", "mask_head", "panoptic_head", "decode_head")
READ_PAST_NECKS = ("decode_head", "auxiliary_head", "head")


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
    first_neck = neck[0] if isinstance(neck, list | tuple) and neck else neck
    if isinstance(first_neck, dict) and "in_channels" in first_neck:
        first_neck["in_channels"] = list(channels) if _is_list(first_neck["in_channels"]) else channels[-1]
        return
    # Behind a neck that keeps the widths, other heads read what the neck gives.
    readers = READ_PAST_NECKS if first_neck else (*TASK_HEADS, "auxiliary_head", "head")
    for head in (head for name in readers for head in _heads(model.get(name))):
        if "in_channels" in head:
            head["in_channels"] = _read_channels(head, channels)
            if head.get("c1_in_channels"):  # DeepLabV3+ looks at the first map once more
                head["c1_in_channels"] = channels[0]


def _heads(part: Any) -> list[dict[str, Any]]:
    """One head, several or none."""
    return list(part) if _is_list(part) else [part] if part else []


def _read_channels(head: dict[str, Any], channels: list[int]) -> int | list[int]:
    """Widths of the feature maps that a head reads by its ``in_index``, in the form that it has them in."""
    index = head.get("in_index", -1)
    if not _is_list(head["in_channels"]):
        return channels[index]
    return [channels[one] for one in index] if _is_list(index) else channels


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)
