"""Check the labels of a data set against a number of classes, before anything trains."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from mmkdprune.compat.segmentation_masks import LABELS

from .class_names import LabelRangeError, leaf_datasets

MAX_LABELS = 200_000  # reading the labels of a larger set one by one would delay every start
MASKS = 100  # files opened of a set of masks, evenly spaced
IGNORED = 255


def check_labels(
    dataset: Any, name: str, num_classes: int, limit_from: str, ignored: int = IGNORED, named: bool = True
) -> str | None:
    """Refuse a data set with labels outside ``0 ... num_classes - 1``.

    Image labels and the boxes of sets without class names of their own are read whole, up to 200,000 images; of a set
    of masks 100 files, evenly spaced, are opened. Sets without labels pass.

    Args:
        dataset (Any): The data set, or a wrapper of some.
        name (str): What it is, such as ``training set``.
        num_classes (int): Number of classes.
        limit_from (str): Where that number comes from, for the message.
        ignored (int): Value of pixels that masks leave out. Defaults to 255.
        named (bool): Whether the set names its classes, some of which may then have no image. Defaults to True.

    Returns:
        str | None: A warning if labels seem to count from 1, or a set without names has fewer classes.

    Raises:
        LabelRangeError: If a label lies outside.
    """
    labels, images = _labels(dataset)
    kind = "image"
    if labels is None:
        labels, images, kind = *_mask_values(dataset, ignored), "mask"
    if labels is None or not len(labels):
        return None
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    lowest = int(labels.min())
    what = f"{name} {type(dataset).__name__}"
    if len(outside):
        found = sorted({int(label) for label in labels[outside]})
        advice = "correct the annotations"
        if lowest == 1 and found == [num_classes]:
            advice = "labels seem to count from 1 and must count from 0: subtract 1"
            advice += " (reduce_zero_label=True for masks whose 0 is to be ignored)" if kind == "mask" else ""
        raise LabelRangeError(
            f"{kind} {images[outside[0]]} of the {what} has the label {labels[outside[0]]}, outside 0 ... "
            f"{num_classes - 1} ({len(np.unique(images[outside]))} of {len(np.unique(images))} {kind}s have such "
            f"labels: {', '.join(map(str, found[:5]))}{', ...' if len(found) > 5 else ''}): {advice}, or set "
            f"{limit_from} to the number of classes (now {num_classes})"
        )
    present = np.unique(labels)
    if lowest == 1 and num_classes > 2 and len(present) == num_classes - 1:
        return (
            f"no {kind} of the {what} has the label 0, all of 1 ... {num_classes - 1} occur: labels that count from 1 "
            "must be lowered by 1"
        )
    if not named and kind == "image" and labels.max() + 1 < num_classes:
        return (
            f"the labels of the {what} end with {labels.max()}, but {limit_from} is {num_classes}: set it to "
            f"{labels.max() + 1}, or name the classes of the data set (metainfo=dict(classes=(...)))"
        )
    return None


def _labels(dataset: Any) -> tuple[np.ndarray | None, np.ndarray]:
    """Class indices, and the number of the image of each; None if the set does not list any."""
    nothing = None, np.empty(0, np.int64)
    if not hasattr(dataset, "get_gt_labels") and hasattr(dataset, "datasets"):
        parts = [_labels(part)[0] for part in dataset.datasets]
        if any(part is None for part in parts):
            return nothing
        labels = np.concatenate([part for part in parts if part is not None])
        return labels, np.arange(len(labels))
    if not hasattr(dataset, "get_gt_labels") and hasattr(dataset, "dataset"):
        return _labels(dataset.dataset)
    try:
        if len(dataset) > MAX_LABELS:
            return nothing
        if hasattr(dataset, "get_gt_labels"):
            try:
                labels = np.asarray(dataset.get_gt_labels())
            except ValueError:  # several per image, which NumPy does not put into an array
                labels = np.empty(0, object)
            if labels.ndim == 1 and len(labels):
                return (labels, np.arange(len(labels))) if np.issubdtype(labels.dtype, np.integer) else nothing
        if not hasattr(dataset, "get_cat_ids") or hasattr(dataset, "cat2label"):  # made from the names, all in range
            return nothing
        per_image = [np.asarray(dataset.get_cat_ids(index)).reshape(-1) for index in range(len(dataset))]
    except (AttributeError, KeyError, TypeError, ValueError, NotImplementedError):
        return nothing
    whole = [labels for labels in per_image if len(labels)]
    if not whole or not all(np.issubdtype(labels.dtype, np.integer) for labels in whole):
        return nothing
    return np.concatenate(whole), np.repeat(np.arange(len(per_image)), [len(labels) for labels in per_image])


def _mask_values(dataset: Any, ignored: int) -> tuple[np.ndarray | None, np.ndarray]:
    """Values that occur in some masks, without the one that is left out, and the number of the mask of each."""
    values, masks, start = [], [], 0
    leaves = list(leaf_datasets(dataset))
    for leaf in leaves:
        for index, mask in _some_masks(leaf, max(1, MASKS // len(leaves))):
            found = np.flatnonzero(np.bincount(mask.ravel())) if mask.dtype == np.uint8 else np.unique(mask)
            found = found[found != ignored]
            values.append(found)
            masks.append(np.full(len(found), start + index))
        start += len(leaf) if hasattr(leaf, "__len__") else 0
    if not values:
        return None, np.empty(0, np.int64)
    return np.concatenate(values), np.concatenate(masks)


def _some_masks(dataset: Any, number: int) -> Iterator[tuple[int, np.ndarray]]:
    """Masks as the pipeline's own loading step gives them: with its backend, label map and reduced zero label."""
    steps = getattr(getattr(dataset, "pipeline", None), "transforms", ())
    load = next((step for step in steps if type(step).__name__ == "LoadAnnotations"), None)
    try:
        first = dataset.get_data_info(0) if load is not None and len(dataset) else {}
    except (AttributeError, KeyError, TypeError, ValueError, NotImplementedError):
        return
    if load is None or not first.get("seg_map_path") or "instances" in first:  # boxes have their labels elsewhere
        return
    for index in np.unique(np.linspace(0, len(dataset) - 1, number).round().astype(int)):
        try:
            info = dict(dataset.get_data_info(int(index)))
            info.pop(LABELS, None)  # labels are compared here, with all the others
            mask = load(info).get("gt_seg_map")
        except Exception:  # a file that cannot be read is reported where it is trained on
            continue
        if mask is not None:
            yield int(index), np.asarray(mask)
