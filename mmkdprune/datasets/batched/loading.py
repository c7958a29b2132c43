"""Read all images of a data set once, after the fixed part of its pipeline."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mmcv.transforms
import mmpretrain.datasets.transforms as per_image
import numpy as np
import torch
from torch import Tensor

from .transforms import BatchTransform, batched_transform

INSTEAD = "Use the ordinary data set (without BatchedDataset, with num_workers) for it."
# Transforms that do the same to an image every time.
FIXED = (
    mmcv.transforms.LoadImageFromFile,
    mmcv.transforms.Resize,
    mmcv.transforms.Pad,
    per_image.ResizeEdge,
    mmcv.transforms.CenterCrop,
)
READING_THREADS = 8


def split_pipeline(dataset: Any) -> tuple[list[Callable], list[BatchTransform], Sequence[str]]:
    """Split the pipeline of a data set into what is done once and what is done to each batch.

    Args:
        dataset (Any): A data set with a ``pipeline``, or wrappers (``dataset``) around one.

    Returns:
        tuple[list[Callable], list[BatchTransform], Sequence[str]]: Fixed transforms of one image, random ones of a
        batch, and the keys of the meta information to keep.

    Raises:
        ValueError: If the data set has no pipeline, or one that cannot be split.
    """
    owner = dataset
    while not hasattr(owner, "pipeline") and hasattr(owner, "dataset"):
        owner = owner.dataset
    if not hasattr(owner, "pipeline"):
        raise ValueError(f"BatchedDataset: {type(dataset).__name__} has no pipeline. {INSTEAD}")
    return split_transforms(owner.pipeline.transforms)


def split_transforms(pipeline: Sequence[Any]) -> tuple[list[Callable], list[BatchTransform], Sequence[str]]:
    """Split a list of built transforms; see :func:`split_pipeline`."""
    transforms = list(pipeline)
    keys: Sequence[str] = per_image.PackInputs.DEFAULT_META_KEYS
    if transforms and isinstance(transforms[-1], per_image.PackInputs):
        packing = transforms.pop()
        if packing.input_key != "img" or packing.algorithm_keys:
            raise ValueError(f"BatchedDataset: {packing} asks for more than images and labels. {INSTEAD}")
        keys = packing.meta_keys
    fixed = []
    while transforms and type(transforms[0]) in FIXED:
        fixed.append(transforms.pop(0))
    batched = [batched_transform(transform) for transform in transforms]
    for transform, counterpart in zip(transforms, batched, strict=True):
        if counterpart is None:
            later = "comes after a random transform" if type(transform) in FIXED else "has no counterpart for batches"
            raise ValueError(
                f"BatchedDataset: the pipeline's {type(transform).__name__} {later} (random ones that have: "
                f"RandomCrop, RandomFlip, Cutout). {INSTEAD}"
            )
    return fixed, [transform for transform in batched if transform is not None], keys


def load_images(
    dataset: Any, fixed: Sequence[Callable], memory_limit: float, keys: Sequence[str]
) -> tuple[Tensor, Tensor | None, list[dict[str, Any]]]:
    """Read all images and labels.

    Args:
        dataset (Any): The data set, with ``get_data_info``.
        fixed (Sequence[Callable]): What is done to each image.
        memory_limit (float): In bytes.
        keys (Sequence[str]): Keys of the meta information to keep.

    Returns:
        tuple[Tensor, Tensor | None, list[dict[str, Any]]]: Images, uint8, (N, C, H, W); labels, int64, (N,), or None
        when there are none; meta information of each image.

    Raises:
        ValueError: If the images cannot be one tensor of bytes, or there is not one label an image.
    """
    number = len(dataset)

    def read(index: int) -> dict[str, Any]:
        # an index of a wrapper is not the one of the annotation: `sample_idx` stays the latter, as PackInputs has it
        results = dataset.get_data_info(index)
        for transform in fixed:
            results = transform(results)
        return results

    first = _pixels(read(0), 0)
    size = number * first.nbytes
    if size > memory_limit:
        raise ValueError(
            f"BatchedDataset: {number} images of {first.shape} take {size:.3g} bytes, more than "
            f"memory_limit={memory_limit:.3g}: raise memory_limit if they fit. {INSTEAD}"
        )
    images = np.empty((number, *np.moveaxis(first, 2, 0).shape), np.uint8)
    labels: list[Any] = [None] * number
    meta: list[dict[str, Any]] = [{}] * number

    def store(index: int) -> None:
        results = read(index)
        pixels = _pixels(results, index)
        if pixels.shape != first.shape:
            raise ValueError(
                f"BatchedDataset: all images must have one size, but image 0 is {first.shape} and image {index} is "
                f"{pixels.shape}: add dict(type='Resize', scale=...) in front of the random transforms. {INSTEAD}"
            )
        if "gt_score" in results:
            raise ValueError(f"BatchedDataset: image {index} has soft labels (gt_score). {INSTEAD}")
        images[index] = np.moveaxis(pixels, 2, 0)
        labels[index] = results.get("gt_label")
        meta[index] = {key: results[key] for key in keys if key in results}

    if any(isinstance(transform, mmcv.transforms.LoadImageFromFile) for transform in fixed):
        with ThreadPoolExecutor(READING_THREADS) as pool:  # decoding leaves Python's lock alone
            for _ in pool.map(store, range(number)):
                pass
    else:
        for index in range(number):
            store(index)
    return torch.from_numpy(images), _one_label_each(labels), meta


def _pixels(results: dict[str, Any], index: int) -> np.ndarray:
    image = results.get("img")
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim not in (2, 3):
        found = type(image).__name__ if not isinstance(image, np.ndarray) else f"{image.dtype}, {image.shape}"
        raise ValueError(f"BatchedDataset: image {index} must be bytes, (H, W) or (H, W, C), got {found}. {INSTEAD}")
    return image if image.ndim == 3 else image[:, :, None]


def _one_label_each(labels: Sequence[Any]) -> Tensor | None:
    if all(label is None for label in labels):
        return None
    for index, label in enumerate(labels):
        if np.size(label) != 1 or not np.issubdtype(np.asarray(label).dtype, np.integer):
            raise ValueError(
                f"BatchedDataset: every image needs exactly one class index (gt_label), image {index} has {label!r}. "
                f"{INSTEAD}"
            )
    return torch.tensor([int(np.asarray(label).item()) for label in labels])
