"""Fixed parts of a data set: few images of every class, or few classes."""

from typing import Any

import numpy as np
from torch.utils.data import Dataset

from mmkdprune.arguments import check_count, checked
from mmkdprune.registry import DATASETS


class _Subset(Dataset):
    """Some images of a data set.

    Subclasses choose them in :meth:`choose`.

    Args:
        dataset (dict): Config of a classification data set whose class lists its labels (``get_gt_labels``), as all of
            MMPretrain's single-label sets do.
    """

    @checked
    def __init__(self, dataset: dict) -> None:
        if "type" not in dataset:
            raise ValueError(f"{type(self).__name__}: dataset must be the config of a data set, got {dataset!r}.")
        self.dataset = DATASETS.build(dataset)
        labels = self._all_labels(self.dataset)
        self.chosen = np.sort(self.choose(labels))
        self.labels = labels[self.chosen]

    def choose(self, labels: np.ndarray) -> np.ndarray:
        """Return the indices of the images to keep, given the labels of all."""
        raise NotImplementedError

    def _all_labels(self, dataset: Any) -> np.ndarray:
        """Labels of a data set, or of several that are joined."""
        if not hasattr(dataset, "get_gt_labels") and hasattr(dataset, "datasets"):
            return np.concatenate([self._all_labels(part) for part in dataset.datasets])
        if not hasattr(dataset, "get_gt_labels"):
            raise ValueError(
                f"{type(self).__name__}: {type(dataset).__name__} lists no labels (get_gt_labels); it works on "
                "MMPretrain's classification data sets."
            )
        return np.asarray(dataset.get_gt_labels())

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


@DATASETS.register_module()
class StratifiedSubset(_Subset):
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

    @checked
    def __init__(self, dataset: dict, ratio: float, seed: int = 0) -> None:
        if not (isinstance(ratio, float) and 0 < ratio < 1):
            raise ValueError(f"StratifiedSubset: ratio must lie between 0 and 1, got {ratio!r}.")
        check_count("StratifiedSubset: seed", seed, 0)
        self.ratio, self.seed = ratio, seed
        super().__init__(dataset)

    def choose(self, labels: np.ndarray) -> np.ndarray:
        """Draw the share of every class."""
        from sklearn.model_selection import StratifiedShuffleSplit

        classes, counts = np.unique(labels, return_counts=True)
        if len(classes) > round(self.ratio * len(labels)) or counts.min() * self.ratio < 0.5 or counts.min() < 2:
            raise ValueError(
                f"StratifiedSubset: ratio={self.ratio} of {len(labels)} images in {len(classes)} classes leaves a "
                f"class without an image (the smallest has {counts.min()}): choose a larger ratio."
            )
        splitter = StratifiedShuffleSplit(n_splits=1, train_size=self.ratio, random_state=self.seed)
        return next(splitter.split(np.zeros(len(labels)), labels))[0]


@DATASETS.register_module()
class ClassSubset(_Subset):
    """Keep the first classes of a data set, and of each the first images: a small problem for a short run.

    Args:
        dataset (dict): Config of a classification data set whose class lists its labels (``get_gt_labels``), as all of
            MMPretrain's single-label sets do.
        num_classes (int): Number of classes to keep.
        images_per_class (int, optional): Number of images of each class. Defaults to all.

    Raises:
        ValueError: If there are fewer classes, or a class has fewer images, or the data set lists no labels.
    """

    @checked
    def __init__(self, dataset: dict, num_classes: int, images_per_class: int | None = None) -> None:
        self.num_classes, self.images_per_class = num_classes, images_per_class
        super().__init__(dataset)

    def choose(self, labels: np.ndarray) -> np.ndarray:
        """Take the first images of every class that is kept."""
        counts = np.bincount(labels, minlength=max(self.num_classes, 0))[: max(self.num_classes, 0)]
        wanted = 1 if self.images_per_class is None else self.images_per_class
        if self.num_classes < 1 or wanted < 1 or counts.min() < wanted:
            raise ValueError(
                f"ClassSubset: num_classes={self.num_classes} with images_per_class={self.images_per_class} cannot be "
                f"had from {len(labels)} images of {labels.max() + 1} classes: choose smaller, positive numbers."
            )
        indices = [np.flatnonzero(labels == label)[: self.images_per_class] for label in range(self.num_classes)]
        return np.concatenate(indices)

    @property
    def metainfo(self) -> dict[str, Any]:
        """Meta information with the names of the classes that are kept."""
        info = dict(self.dataset.metainfo)
        if info.get("classes") is not None:
            info["classes"] = tuple(info["classes"][: self.num_classes])
        return info
