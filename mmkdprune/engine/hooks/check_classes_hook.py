"""Compare the classes and labels of the data with the network before training starts."""

from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkdprune.arguments import checked
from mmkdprune.registry import HOOKS
from mmkdprune.utils.wrappers import unwrapped

MAX_LABELS = 200_000  # reading the labels of a larger set one by one would delay every start


@HOOKS.register_module()
class CheckClassesHook(Hook):
    """Refuse a training set whose number of classes is not the one of the network's head, or with labels beyond it.

    A label outside the head's range ends in an unreadable device-side assertion on CUDA, long after the start. Data
    sets without class names and heads without ``num_classes`` are not checked; labels are, where the set lists them
    (``get_gt_labels``) and has at most 200,000.

    Args:
        allow_unused: Accept a head with more classes than the data. Defaults to False.
    """

    @checked
    def __init__(self, allow_unused: bool = False) -> None:
        self.allow_unused = allow_unused

    def before_train(self, runner: Runner) -> None:
        """Compare once, when data and model exist."""
        model: Any = unwrapped(runner.model)
        num_classes = getattr(getattr(model, "head", None), "num_classes", None)
        dataset = runner.train_dataloader.dataset
        if not isinstance(num_classes, int):
            return
        classes: Any = (getattr(dataset, "metainfo", None) or {}).get("classes")
        if classes is None or len(classes) == num_classes or (self.allow_unused and num_classes > len(classes)):
            _check_labels(dataset, num_classes)
            return
        advice = ""
        if num_classes > len(classes):
            hook = "dict(type='mmkdprune.CheckClassesHook', allow_unused=True)"
            advice = f"; to keep a larger head add custom_hooks=[{hook}]"
        raise ValueError(
            f"the training set {type(dataset).__name__} has {len(classes)} classes, but model.head.num_classes is "
            f"{num_classes}: set model.head.num_classes={len(classes)}, or correct train_dataloader.dataset{advice}"
        )


def _check_labels(dataset: Any, num_classes: int) -> None:
    if not hasattr(dataset, "get_gt_labels") or len(dataset) > MAX_LABELS:
        return
    try:
        labels = np.asarray(dataset.get_gt_labels())
    except (KeyError, TypeError, ValueError):  # no labels, or several an image
        return
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        return
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        raise ValueError(
            f"image {outside[0]} of the training set {type(dataset).__name__} has the label {labels[outside[0]]}, "
            f"outside 0 ... {num_classes - 1} ({len(outside)} of {len(labels)} images have such labels): correct the "
            f"annotations, or set model.head.num_classes to the number of classes (now {num_classes})"
        )
