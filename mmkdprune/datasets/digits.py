"""Handwritten digits that come with scikit-learn: real images without a download."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmpretrain.datasets import BaseDataset

from mmkdprune.arguments import checked
from mmkdprune.registry import DATASETS

SPLITS = ("train", "test")
SIZES = (16, 32)
TEST_SHARE = 5  # one image in five of every class
FULL_INK = 16  # darkest value of a scan


@DATASETS.register_module()
class Digits(BaseDataset):
    """1,797 scans of handwritten digits, 10 classes, as RGB images.

    The 8x8 scans of scikit-learn's ``load_digits`` are enlarged bilinearly. The split is fixed and stratified: of
    every class a fixed random fifth is for testing (364 images), the rest for training (1,433).

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, 1998 (the test part).

    Args:
        split (str): ``'train'`` or ``'test'``. Defaults to ``'train'``.
        size (int): Height and width in pixels, 16 (default) or 32.
        pipeline (Sequence[dict]): Transforms; they receive ``img``, uint8, (size, size, 3), and ``gt_label``.
        **kwargs: Further arguments of MMPretrain's ``BaseDataset``.

    Raises:
        ValueError: If split or size is unknown.
        ImportError: If scikit-learn is missing.
    """

    METAINFO = {"classes": tuple(str(digit) for digit in range(10))}

    @checked
    def __init__(self, split: str = "train", size: int = 16, **kwargs: Any) -> None:
        if split not in SPLITS:
            raise ValueError(f"Digits: split must be one of {SPLITS}, got {split!r}.")
        if size not in SIZES:
            raise ValueError(f"Digits: size must be one of {SIZES} pixels, got {size!r}.")
        self.split = split
        self.size = size
        super().__init__(ann_file="", test_mode=split == "test", **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return one dict with ``img`` and ``gt_label`` an image of the split."""
        scans, labels = read_scans(self.split)
        scaled = torch.from_numpy(scans * (255 / FULL_INK)).float()[:, None]  # (N, 1, 8, 8) of 0..255
        enlarged = F.interpolate(scaled, size=(self.size, self.size), mode="bilinear", align_corners=False)
        images = enlarged.round().to(torch.uint8).permute(0, 2, 3, 1).expand(-1, -1, -1, 3).numpy()
        return [
            {"img": np.ascontiguousarray(image), "gt_label": int(label)}
            for image, label in zip(images, labels, strict=True)
        ]


def read_scans(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the scans of one part of the fixed split.

    Args:
        split: ``'train'`` or ``'test'``.

    Returns:
        Ink, float64, (N, 8, 8), from 0 to 16; digits, int64, (N,).

    Raises:
        ImportError: If scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("The scanned digits come with scikit-learn: pip install scikit-learn") from error
    digits = load_digits()
    indices = _split_indices(digits.target, split)
    return digits.images[indices], digits.target[indices]


def _split_indices(labels: np.ndarray, split: str) -> np.ndarray:
    shuffle = np.random.RandomState(0).permutation  # a stream that NumPy promises never to change
    picked = []
    for label in np.unique(labels):
        order = shuffle(np.flatnonzero(labels == label))
        is_test = np.arange(len(order)) % TEST_SHARE == 0
        picked.append(order[is_test == (split == "test")])
    return np.sort(np.concatenate(picked))
