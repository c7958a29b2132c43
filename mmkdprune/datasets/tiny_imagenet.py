"""Tiny-ImageNet from its official folder."""

from pathlib import Path
from typing import Any

from mmpretrain.datasets import BaseDataset

from mmkdprune.arguments import checked
from mmkdprune.config.data_sources import absent_message
from mmkdprune.registry import DATASETS

SPLITS = ("train", "val")


@DATASETS.register_module()
class TinyImageNet(BaseDataset):
    """Tiny-ImageNet: 200 classes of ImageNet at 64x64 px, 500 images each for training and 50 for validation.

    Reads ``tiny-imagenet-200`` as the archive unpacks it; a validation set that was sorted into a folder a class (as
    many scripts do) is read as well. Labels follow the sorted class identifiers, as in a data set of folders. The
    official test images have no public labels.

    Args:
        data_root (str): The folder ``tiny-imagenet-200``.
        split (str): ``'train'`` (100,000 images) or ``'val'`` (10,000). Defaults to ``'train'``.
        **kwargs: Further arguments of MMPretrain's ``BaseDataset``.

    Raises:
        FileNotFoundError: If the set is not there; says what to download and where to put it.
        ValueError: If the split is unknown, or a file names a class that there is not.
    """

    @checked
    def __init__(self, data_root: str, split: str = "train", **kwargs: Any) -> None:
        if split not in SPLITS:
            raise ValueError(f"TinyImageNet: split must be one of {', '.join(SPLITS)}, got {split!r}.")
        self.split = split
        super().__init__(ann_file="", data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return one dict with ``img_path`` and ``gt_label`` an image of the split."""
        root = Path(self.data_root)
        identifiers = sorted(self._read("wnids.txt").split())
        names = _names(root / "words.txt")
        self._metainfo.setdefault("classes", tuple(names.get(wnid, wnid) for wnid in identifiers))
        folder = root / self.split
        if not folder.is_dir():
            raise FileNotFoundError(absent_message("TinyImageNet", self.data_root, folder))
        if self.split == "val" and not all((folder / wnid).is_dir() for wnid in identifiers):
            samples = self._validation_images(folder)
        else:
            samples = [(path, wnid) for wnid in identifiers for path in _images(folder / wnid)]
        labels = {wnid: label for label, wnid in enumerate(identifiers)}
        if unknown := sorted({wnid for _, wnid in samples} - set(labels)):
            raise ValueError(f"TinyImageNet: {folder} has images of class {unknown[0]}, which wnids.txt does not name.")
        if not samples:
            raise FileNotFoundError(absent_message("TinyImageNet", self.data_root, folder / "*/images/*.JPEG"))
        return [{"img_path": str(path), "gt_label": labels[wnid]} for path, wnid in samples]

    def _validation_images(self, folder: Path) -> list[tuple[Path, str]]:
        lines = [line.split("\t") for line in self._read("val/val_annotations.txt").splitlines() if line.strip()]
        if any(len(line) < 2 for line in lines):
            raise ValueError(f"TinyImageNet: {folder}/val_annotations.txt is damaged: unpack the archive again.")
        return [(folder / "images" / line[0], line[1]) for line in lines]

    def _read(self, name: str) -> str:
        path = Path(self.data_root, name)
        if not path.is_file():
            raise FileNotFoundError(absent_message("TinyImageNet", self.data_root, path))
        return path.read_text(encoding="utf-8")


def _images(folder: Path) -> list[Path]:
    inner = folder / "images"
    return sorted((inner if inner.is_dir() else folder).glob("*.JPEG"))


def _names(path: Path) -> dict[str, str]:
    """First name of each class identifier of WordNet."""
    if not path.is_file():
        return {}
    lines = (line.split("\t", 1) for line in path.read_text(encoding="utf-8").splitlines() if "\t" in line)
    return {wnid: names.split(",")[0].strip() for wnid, names in lines}
