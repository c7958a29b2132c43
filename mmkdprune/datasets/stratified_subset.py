"""A fixed share of every class of a data set, for training with few images."""

from typing import Any

import numpy as np
from torch.utils.data import Dataset

from mmkdprune.registry import DATASETS


@DATASETS.register_module()
class StratifiedSubset(Dataset):
    """Keep the same share of the images of every class.

    The choice depends on the seed and the labels only, so that all methods of a comparison train on the same images.
    It is the one of scikit-learn's ``StratifiedShuffleSplit``, which HSAKD's few-shot tables use (with seed 0).

    Args:
        dataset (dict): Config of a classification data set whose class lists its labels (``get_gt_labels``), as all of
            MMPretrain's single-label sets do.
        ratio (float): Share of the images to keep, between 0 and 1, both excluded.
        seed (int): Another seed chooses other images. Defaults to 0.

    Raises:
        ValueError: If the ratio is no share, leaves a class without an image, or the data set lists no labels.
    """

    def __init__(self, dataset: dict, ratio: float, seed: int = 0) -> None:
        from sklearn.model_selection import StratifiedShuffleSplit

        if not (isinstance(ratio, float) and 0 < ratio < 1):
            raise ValueError(f"StratifiedSubset: ratio must lie between 0 and 1, got {ratio!r}.")
        self.dataset = DATASETS.build(dataset)
        if not hasattr(self.dataset, "get_gt_labels"):
            raise ValueError(
                f"StratifiedSubset: {type(self.dataset).__name__} lists no labels (get_gt_labels); it works on "
                "MMPretrain's classification data sets."
            )
        labels = np.asarray(self.dataset.get_gt_labels())
        classes, counts = np.unique(labels, return_counts=True)
        if len(classes) > round(ratio * len(labels)) or counts.min() * ratio < 0.5 or counts.min() < 2:
            raise ValueError(
                f"StratifiedSubset: ratio={ratio} of {len(labels)} images in {len(classes)} classes leaves a class "
                f"without an image (the smallest has {counts.min()}): choose a larger ratio."
            )
        splitter = StratifiedShuffleSplit(n_splits=1, train_size=ratio, random_state=seed)
        chosen, _ = next(splitter.split(np.zeros(len(labels)), labels))
        self.chosen = np.sort(chosen)
        self.labels = labels[self.chosen]

    @property
    def metainfo(self) -> dict[str, Any]:
        """Meta information of the whole data set."""
        return self.dataset.metainfo

    def get_gt_labels(self) -> np.ndarray:
        """Return the labels of the subset, (N,)."""
        return self.labels

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the class of an image as a list."""
        return self.dataset.get_cat_ids(int(self.chosen[idx]))

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return the annotation of an image."""
        return self.dataset.get_data_info(int(self.chosen[idx]))

    def full_init(self) -> None:
        """Load the whole data set, where that was put off."""
        self.dataset.full_init()

    def __getitem__(self, idx: int) -> Any:
        return self.dataset[int(self.chosen[idx])]

    def __len__(self) -> int:
        return len(self.chosen)
