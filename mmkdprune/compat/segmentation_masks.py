"""Name the file when a segmentation mask has another size than its image, or labels of no class."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .patching import patch
from .unreadable_images import name_file

LABELS = "mmkdprune_mask_labels"  # in the pipeline's results: number of classes, and the label that is ignored
ACCEPTS_ALL = "mmkdprune_accepts_all_labels"  # of a data set


class SegmentationMaskError(ValueError):
    """A mask cannot be the annotation of its image; the message names its file."""


def check_mask(mask: np.ndarray, results: dict[str, Any], num_classes: int, ignore_index: int) -> None:
    """Refuse a mask that does not fit its image or the classes of its data set.

    Args:
        mask (np.ndarray): Labels, integers, (H, W).
        results (dict): What the pipeline knows: ``seg_map_path``, ``img_path``, ``ori_shape``.
        num_classes (int): Number of classes.
        ignore_index (int): Label of pixels that do not count.

    Raises:
        SegmentationMaskError: If size or labels are wrong.
    """
    file, shape = results.get("seg_map_path"), results.get("ori_shape")
    if mask.ndim != 2:
        raise SegmentationMaskError(
            f"{file}: a mask has one label per pixel, (H, W), and this one is {mask.shape}: a picture in colours? "
            "Write the index of the class into each pixel"
        )
    if shape is not None and mask.shape != tuple(shape[:2]):
        raise SegmentationMaskError(
            f"{file} is {_size(mask.shape)} pixels and its image {results.get('img_path')} is {_size(shape)}: the mask "
            "belongs to another image, or one of the two was resized"
        )
    if mask.max(initial=0) < num_classes:
        return
    wrong = mask[(mask >= num_classes) & (mask != ignore_index)]
    if wrong.size:
        found = np.unique(wrong).tolist()
        raise SegmentationMaskError(
            f"{file} has the labels {', '.join(map(str, found[:8]))}{' ...' if len(found) > 8 else ''} in "
            f"{wrong.size:,} pixels, outside 0 ... {num_classes - 1}, the data set's {num_classes} classes "
            f"({ignore_index} is ignored): correct the mask or the data set's metainfo['classes'], or set "
            "reduce_zero_label=True if 0 means no class"
        )


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"


def _with_labels(original: Callable) -> Callable:
    def get_data_info(self: Any, idx: int) -> dict:
        info = original(self, idx)
        classes = (getattr(self, "metainfo", None) or {}).get("classes")
        if classes is not None and not getattr(self, ACCEPTS_ALL, False):
            info[LABELS] = (len(classes), getattr(self, "ignore_index", 255))
        return info

    return get_data_info


def _checked(original: Callable) -> Callable:
    def load(self: Any, results: dict) -> None:
        original(self, results)
        if LABELS in results:
            check_mask(results["gt_seg_map"], results, *results[LABELS])

    return name_file("seg_map_path")(load)


def patch_masks() -> None:
    """Lets MMSegmentation check every mask when it is loaded; at most a millisecond for 1,024 x 1,024 pixels."""
    from mmseg.datasets import BaseSegDataset
    from mmseg.datasets.transforms import LoadAnnotations

    patch(BaseSegDataset, "get_data_info", _with_labels)
    patch(LoadAnnotations, "_load_seg_map", _checked)
