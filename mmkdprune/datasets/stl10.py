"""STL-10 from its official binary files."""

from pathlib import Path
from typing import Any

import numpy as np
from mmpretrain.datasets import BaseDataset

from mmkdprune.arguments import checked
from mmkdprune.config.data_sources import absent_message
from mmkdprune.registry import DATASETS

# Files that make up each split, and how many images each file holds.
SPLITS = {
    "train": ("train",),
    "test": ("test",),
    "unlabeled": ("unlabeled",),
    "train+unlabeled": ("train", "unlabeled"),
}
IMAGES = {"train": 5_000, "test": 8_000, "unlabeled": 100_000}
SIZE = 96


@DATASETS.register_module()
class STL10(BaseDataset):
    """STL-10: 10 classes at 96x96 px with 500 training and 800 test images each, and 100,000 images without labels.

    Images stay in their file and are read from there when they are asked for, so that the unlabelled part (2.8 GB)
    costs no memory and worker processes share it.

    Source: Coates, Lee and Ng, "An Analysis of Single Layer Networks in Unsupervised Feature Learning", AISTATS 2011.

    Args:
        data_root (str): Folder that holds ``stl10_binary``, or that folder itself.
        split (str): ``'train'`` (5,000 images, default), ``'test'`` (8,000), ``'unlabeled'`` (100,000) or
            ``'train+unlabeled'``; images of the last two have no label.
        fold (int, optional): One of the ten predefined folds of 1,000 training images, 0 to 9. Defaults to None, all.
        pipeline (Sequence[dict]): Transforms; they receive ``img``, uint8, (96, 96, 3), RGB, and ``gt_label``.
        **kwargs: Further arguments of MMPretrain's ``BaseDataset``.

    Raises:
        FileNotFoundError: If the files are not there; says what to download and where to put them.
        ValueError: If split or fold is unknown, or a file is not what STL-10 should hold.
    """

    METAINFO = {
        "classes": ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
    }

    @checked
    def __init__(self, data_root: str, split: str = "train", fold: int | None = None, **kwargs: Any) -> None:
        if split not in SPLITS:
            raise ValueError(f"STL10: split must be one of {', '.join(SPLITS)}, got {split!r}.")
        if fold is not None and (split != "train" or fold not in range(10)):
            raise ValueError(f"STL10: fold is one of 0 to 9 of split 'train', got fold={fold!r} of split {split!r}.")
        self.split, self.fold = split, fold
        self._files: dict[str, np.ndarray] = {}
        super().__init__(ann_file="", data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return one dict with file, row and, where there is one, ``gt_label`` an image of the split."""
        for part in SPLITS[self.split]:
            self._files[part] = self._images(part)
        if self.split in ("train", "test"):
            labels = self._labels(self.split)
            rows = range(len(labels)) if self.fold is None else self._fold(len(labels))
            return [{"part": self.split, "row": int(row), "gt_label": int(labels[row])} for row in rows]
        return [{"part": part, "row": row} for part in SPLITS[self.split] for row in range(len(self._files[part]))]

    def get_data_info(self, idx: int) -> dict:
        """Return the annotation of an image together with the image."""
        info = super().get_data_info(idx)
        planes = self._files[info.pop("part")][info.pop("row")]  # (3, 96, 96), column by column
        info["img"] = np.ascontiguousarray(planes.transpose(2, 1, 0))
        return info

    def get_gt_labels(self) -> np.ndarray:
        """Return the labels of all images, (N,).

        Raises:
            ValueError: If the split has none.
        """
        if self.split not in ("train", "test"):
            raise ValueError(f"STL10: the images of split {self.split!r} have no labels.")
        return np.array([BaseDataset.get_data_info(self, index)["gt_label"] for index in range(len(self))])

    def _path(self, name: str) -> Path:
        folders = (Path(self.data_root, "stl10_binary"), Path(self.data_root))
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
        raise FileNotFoundError(absent_message("STL10", self.data_root, folders[0] / name))

    def _images(self, part: str) -> np.ndarray:
        path = self._path(f"{part}_X.bin")
        expected = IMAGES[part] * 3 * SIZE * SIZE
        if path.stat().st_size != expected:
            raise ValueError(
                f"STL-10: {path} has {path.stat().st_size:,} bytes, expected {expected:,}: unpack the archive again."
            )
        return np.memmap(path, np.uint8, "r", shape=(IMAGES[part], 3, SIZE, SIZE))

    def _labels(self, part: str) -> np.ndarray:
        path = self._path(f"{part}_y.bin")
        labels = np.fromfile(path, np.uint8)
        if labels.shape != (IMAGES[part],) or labels.min() < 1 or labels.max() > 10:
            raise ValueError(
                f"STL-10: {path} does not hold {IMAGES[part]:,} labels from 1 to 10: unpack the archive again."
            )
        return labels.astype(np.int64) - 1

    def _fold(self, number: int) -> np.ndarray:
        path = self._path("fold_indices.txt")
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = np.array(lines[self.fold].split() if self.fold is not None and self.fold < len(lines) else [], np.int64)
        if not len(rows) or rows.max() >= number or rows.min() < 0:
            raise ValueError(f"STL-10: {path} names no images of fold {self.fold}: unpack the archive again.")
        return rows
