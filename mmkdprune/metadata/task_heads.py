"""Find the heads of a model that predict the classes of the data, and compare their sizes with the data."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

# One network, a detector inside another model, or one of several networks that train together.
_PLACE = re.compile(r"((student|detector|architecture|peers\.\d+)\.)?(roi_head\.)?\w*head(\.\d+)?")
# Heads that predict something else than the classes of the data: objects, coarse regions, boundaries.
_OTHER_TASKS = re.compile(r"RPN|FusedSemanticHead|STDCHead|PanopticFPNHead|FusionHead")


def task_heads(model: nn.Module) -> dict[str, int]:
    """Return the number of classes of every head that predicts the classes of the data.

    Args:
        model (nn.Module): A classifier, detector or segmentor of OpenMMLab.

    Returns:
        dict[str, int]: Number of classes by the head's place, ``{'model.roi_head.bbox_head': 80}``. Empty for models
        that learn without labels or name classes by text.
    """
    if any(kind.__name__ == "BaseSelfSupervisor" for kind in type(model).__mro__) or hasattr(model, "language_model"):
        return {}
    heads = {
        f"model.{name}": number
        for name, module in model.named_modules()
        if _PLACE.fullmatch(name)
        and not _OTHER_TASKS.search(type(module).__name__)
        and (number := _number(module)) is not None
    }
    backbone = getattr(model, "backbone", None)
    if not heads and type(backbone).__name__ == "VGG" and (number := _number(backbone)) is not None:
        heads["model.backbone"] = number  # which holds the classifier
    return heads


def _number(module: Any) -> int | None:
    number = getattr(module, "num_classes", None)
    return number if isinstance(number, int) and not isinstance(number, bool) and number > 0 else None


def sizes_of(metainfo: Mapping[str, Any], classes: Sequence[str]) -> set[int]:
    """Numbers of classes that a head may have; heads of panoptic segmentation predict things, stuff or both."""
    parts = [metainfo.get(name) for name in ("thing_classes", "stuff_classes")]
    return {len(classes), *(len(names) for names in parts if names)}


def misfits(heads: Mapping[str, int], sizes: set[int]) -> Iterator[tuple[str, int]]:
    """Yield place and size of every head that does not have one of the given numbers of classes."""
    for place, number in heads.items():
        if number not in sizes:
            yield place, number
