"""miniImageNet, in the two layouts in which it is passed on."""

import csv
from pathlib import Path
from typing import Any

from mmpretrain.datasets import BaseDataset

from mmkdprune.registry import DATASETS

SPLITS = ("train", "val", "test")
ENDINGS = (".jpg", ".jpeg", ".png")


@DATASETS.register_module()
class MiniImageNet(BaseDataset):
    """100 classes of ImageNet with 600 images each; 64 for training, 16 for validation and 20 for testing.

    ``data_root`` holds one of

    - ``images/*.jpg`` with ``train.csv``, ``val.csv`` and ``test.csv`` (columns ``filename,label``), the layout of Ravi
      and Larochelle's split;
    - a folder a split: ``train/<class>/*.jpg``, ``val/...``, ``test/...``.

    Classes are numbered within their split, in the order of their names.

    Source: Vinyals et al., "Matching Networks for One Shot Learning", NeurIPS 2016; split: Ravi and Larochelle,
    "Optimization as a Model for Few-Shot Learning", ICLR 2017.

    Args:
        data_root (str): The folder.
        split (str): ``'train'``, ``'val'`` or ``'test'``. Defaults to ``'train'``.
        **kwargs: Further arguments of MMPretrain's ``BaseDataset``.

    Raises:
        ValueError: If the split is unknown, or its list or folder is empty or no such layout.
        FileNotFoundError: If neither layout is there.
    """

    def __init__(self, data_root: str = "", split: str = "train", **kwargs: Any) -> None:
        if split not in SPLITS:
            raise ValueError(f"MiniImageNet: split must be one of {SPLITS}, got {split!r}.")
        self.split = split
        root = Path(data_root).expanduser()
        self._files = _from_list(root, split) if (root / f"{split}.csv").is_file() else _from_folders(root, split)
        if not self._files:
            raise ValueError(f"MiniImageNet: split {split!r} in {root} has no image.")
        kwargs.setdefault("metainfo", {"classes": tuple(sorted({name for _, name in self._files}))})
        super().__init__(ann_file="", data_root=data_root, test_mode=split != "train", **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return one dict with ``img_path`` and ``gt_label`` an image of the split."""
        numbers = {name: number for number, name in enumerate(sorted({name for _, name in self._files}))}
        return [{"img_path": str(file), "gt_label": numbers[name]} for file, name in self._files]


def _from_list(root: Path, split: str) -> list[tuple[Path, str]]:
    path = root / f"{split}.csv"
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        if not {"filename", "label"} <= set(reader.fieldnames or ()):
            raise ValueError(f"MiniImageNet: {path} must have columns filename and label, found {reader.fieldnames}.")
        files = [(root / "images" / row["filename"], row["label"]) for row in reader]
    absent = next((file for file, _ in files if not file.is_file()), None)
    if absent is not None:
        raise FileNotFoundError(f"MiniImageNet: {path} lists {absent.name}, but there is no {absent}.")
    return files


def _from_folders(root: Path, split: str) -> list[tuple[Path, str]]:
    folder = root / split
    if not folder.is_dir():
        raise FileNotFoundError(
            f"MiniImageNet: there is neither {root / f'{split}.csv'} (with {root / 'images'}) nor a folder {folder} "
            "with a folder for each class."
        )
    return [
        (file, group.name)
        for group in sorted(folder.iterdir())
        if group.is_dir()
        for file in sorted(group.iterdir())
        if file.suffix.lower() in ENDINGS
    ]
