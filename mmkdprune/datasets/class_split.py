"""Some classes of a data set, by name: the splits of few-shot learning."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmkdprune.arguments import checked
from mmkdprune.registry import DATASETS

from .subsets import _Subset


@DATASETS.register_module()
class ClassSplit(_Subset):
    """Keep the images of the named classes and number the classes anew, from 0, in the given order.

    Few-shot learning trains on some classes and tests on others. Labels of the images, ``get_gt_labels`` and the names
    in ``metainfo`` are all those of the split. Several sets are joined before (``dataset=dict(type='ConcatDataset',
    ...)``): CIFAR-FS takes the training and the test images of CIFAR-100.

    Args:
        dataset (dict): Config of a classification data set that lists its labels and names its classes.
        classes (Sequence[str] | str): Names of the classes; or a file with them: one a line, or JSON with ``key``.
        key (str, optional): Where the list stands in a JSON file, ``'cifar_fs.test'`` for ``{"cifar_fs": {"test":
            [...]}}``. Defaults to None, the whole file.

    Raises:
        ValueError: If a class is unknown, given twice or without an image, or the data set lists no labels.
        FileNotFoundError: If there is no such file.
    """

    @checked
    def __init__(self, dataset: dict, classes: Sequence[str] | str, key: str | None = None) -> None:
        self.class_names = tuple(_read_classes(Path(classes), key) if isinstance(classes, str) else classes)
        if not self.class_names or len(set(self.class_names)) != len(self.class_names):
            twice = sorted({name for name in self.class_names if self.class_names.count(name) > 1})
            raise ValueError(f"ClassSplit: classes must be different names, got {twice or 'none'}.")
        super().__init__(dataset)
        self.labels = self._numbers[self.labels]

    def choose(self, labels: np.ndarray) -> np.ndarray:
        """Find the images of the named classes."""
        known = list(self.dataset.metainfo.get("classes") or ())
        unknown = [name for name in self.class_names if name not in known]
        if unknown:
            raise ValueError(
                f"ClassSplit: {type(self.dataset).__name__} has no class {unknown[0]!r} ({len(unknown)} of "
                f"{len(self.class_names)} names are unknown); its {len(known)} classes: "
                f"{', '.join(map(repr, known[:5]))}{', ...' if len(known) > 5 else ''}."
            )
        self._numbers = np.full(max(len(known), int(labels.max()) + 1), -1)
        self._numbers[[known.index(name) for name in self.class_names]] = np.arange(len(self.class_names))
        counts = np.bincount(self._numbers[labels][self._numbers[labels] >= 0], minlength=len(self.class_names))
        if not counts.all():
            name = self.class_names[int(counts.argmin())]
            raise ValueError(f"ClassSplit: {type(self.dataset).__name__} has no image of class {name!r}.")
        return np.flatnonzero(self._numbers[labels] >= 0)

    @property
    def metainfo(self) -> dict[str, Any]:
        """Meta information with the names of the classes that are kept."""
        return {**self.dataset.metainfo, "classes": self.class_names}

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the class of an image as a list."""
        return [int(self.labels[idx])]

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return the annotation of an image, with its label in the split."""
        return {**super().get_data_info(idx), "gt_label": int(self.labels[idx])}

    def __getitem__(self, idx: int) -> Any:
        item = super().__getitem__(idx)
        label = int(self.labels[idx])
        if "data_samples" in item:
            item["data_samples"].set_gt_label(label)
        else:
            item["gt_label"] = label
        return item


def _read_classes(path: Path, key: str | None) -> list[str]:
    if not path.expanduser().is_file():
        raise FileNotFoundError(f"ClassSplit: there is no file of classes {path}")
    text = path.expanduser().read_text(encoding="utf-8")
    if path.suffix != ".json":
        return [line.strip() for line in text.splitlines() if line.strip()]
    found: Any = json.loads(text)
    for part in key.split(".") if key else ():
        if not isinstance(found, dict) or part not in found:
            where = f"; it has {', '.join(map(repr, found))}" if isinstance(found, dict) else ""
            raise ValueError(f"ClassSplit: {path} has no {key!r} ({part!r} is missing{where})")
        found = found[part]
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        hint = f": give key, one of {', '.join(map(repr, found))}" if isinstance(found, dict) else ""
        raise ValueError(f"ClassSplit: {path} holds no list of names{f' at {key!r}' if key else ''}{hint}")
    return found
