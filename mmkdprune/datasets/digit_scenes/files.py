"""Digit scenes as files, which the stock data sets of MMDetection and MMSegmentation read."""

import json
from pathlib import Path

import cv2
import numpy as np

from mmkdprune.checkpoint.atomic import atomic_write

from .dataset import DIGITS, DigitScenes, instances_of


def write_digit_scenes(folder: Path, **settings: object) -> int:
    """Write one split: ``img_dir/<split>``, ``ann_dir/<split>`` and, last, ``annotations/<split>.json``.

    ``CocoDataset`` reads images and ``annotations`` (with ``metainfo`` naming the ten classes), ``BaseSegDataset``
    images and ``ann_dir``.

    Args:
        folder: Where to; made if it is not there.
        **settings: Of :class:`DigitScenes`, without ``task``.

    Returns:
        Number of scenes.

    Raises:
        FileExistsError: The split is there already.
    """
    dataset = DigitScenes(task="detection", **settings)  # type: ignore[arg-type]
    listing = folder / "annotations" / f"{dataset.split}.json"
    if listing.exists():
        raise FileExistsError(f"{listing} is there already: choose another folder")
    folders = [folder / name / dataset.split for name in ("img_dir", "ann_dir")]
    for one in (*folders, listing.parent):
        one.mkdir(parents=True, exist_ok=True)
    images: list[dict] = []
    annotations: list[dict] = []
    for number in range(len(dataset)):
        scene = dataset.scene(number)
        name = f"{number:06d}.png"
        for where, pixels in zip(folders, (scene.image[..., ::-1], scene.semantic_map), strict=True):
            _write_png(where / name, pixels)
        images.append({"id": number, "file_name": name, "height": dataset.size, "width": dataset.size})
        for instance, mask in zip(instances_of(scene), scene.masks, strict=True):
            left, top, right, bottom = instance["bbox"]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": instance["bbox_label"],
                    "bbox": [left, top, right - left, bottom - top],
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": instance["mask"],
                }
            )
    categories = [{"id": label, "name": name} for label, name in enumerate(DIGITS)]
    with atomic_write(listing, "w", encoding="utf-8") as file:
        json.dump({"images": images, "annotations": annotations, "categories": categories}, file)
    return len(dataset)


def _write_png(path: Path, pixels: np.ndarray) -> None:
    if not cv2.imwrite(str(path), pixels):
        raise OSError(f"{path} could not be written")
