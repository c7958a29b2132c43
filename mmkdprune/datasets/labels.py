"""The class of every image of a data set, without loading an image."""

from typing import Any

import numpy as np

from mmkdprune.arguments import checked


@checked
def read_labels(dataset: Any, owner: str) -> np.ndarray:
    """Read the labels of a classification data set.

    Args:
        dataset (Dataset): A data set that lists its labels (``get_gt_labels``, as MMPretrain's do) or tells the class
            of an image (``get_cat_ids``, as MMEngine's wrappers do).
        owner (str): Who needs them, for the message.

    Returns:
        np.ndarray: Class indices, int64, (n,).

    Raises:
        ValueError: If it does neither, or an image has several labels or none.
    """
    try:
        if hasattr(dataset, "get_gt_labels"):
            labels = np.asarray(dataset.get_gt_labels())
        else:
            labels = np.asarray([dataset.get_cat_ids(index) for index in range(len(dataset))])
            labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{owner}: the training set {type(dataset).__name__} does not tell the class of each image "
            f"({type(error).__name__}: {error}): use a classification data set with get_gt_labels() or get_cat_ids(), "
            "as all of MMPretrain's single-label sets are."
        ) from None
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or (len(labels) and labels.min() < 0):
        raise ValueError(
            f"{owner}: needs one class index an image, the training set {type(dataset).__name__} has labels of "
            f"{labels.dtype} and shape {labels.shape}: multi-label and unlabelled data sets are not supported."
        )
    return labels.astype(np.int64)
