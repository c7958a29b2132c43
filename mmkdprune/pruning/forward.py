"""Run the deployable part of a model, whose outputs a compaction has to leave equal; take outputs apart."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

Forward = Callable[[nn.Module, Tensor], Any]

_DETECTOR_HEADS = ("bbox_head", "rpn_head", "roi_head", "mask_head", "panoptic_head")
_SEGMENTOR_HEADS = ("decode_head", "auxiliary_head")


def run_deployable(model: nn.Module, images: Tensor) -> Any:
    """Run a backbone, classifier, detector or segmentor on images.

    A detector is run as far as the feature maps that its heads read: nothing behind them is pruned, and what the heads
    do depends on the boxes they find. A segmentor is run with all of its heads, also the auxiliary ones, since they
    read the backbone. Everything else is called.

    Args:
        model (nn.Module): The model.
        images (Tensor): (N, C, H, W).

    Returns:
        Any: Tensors in lists, tuples or dictionaries.
    """
    extract = getattr(model, "extract_feat", None)
    if callable(extract) and any(getattr(model, name, None) is not None for name in _DETECTOR_HEADS):
        return extract(images)
    heads = [head for name in _SEGMENTOR_HEADS if (head := getattr(model, name, None)) is not None]
    if callable(extract) and heads:
        features = extract(images)
        outputs: list[Any] = []
        for head in heads:
            stages = list(head) if isinstance(head, nn.ModuleList) else [head]
            cascade = head is heads[0] and len(stages) > 1
            previous = None
            for stage in stages:
                previous = stage(features, previous) if cascade and previous is not None else stage(features)
                outputs.append(previous)
        return outputs
    return model(images)


def flat(values: Any) -> list[Any]:
    """All leaves of nested lists, tuples and dictionaries."""
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, (tuple, list)):
        return [leaf for value in values for leaf in flat(value)]
    return [values]
