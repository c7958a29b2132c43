"""List the images of miniImageNet for ``mmkdprune.MiniImageNet``; see ``--help``."""

import csv
from collections import defaultdict
from pathlib import Path

from mmkdprune.commands.dataset_conversion import ImageLists, convert_to_lists, official_file
from mmkdprune.errors import UsageError

NAME = "MiniImageNet"
EXPECTED = {
    "train": 50_000,
    "test": 10_000,
    "fewshot_train": 38_400,
    "fewshot_val": 9_600,
    "fewshot_test": 12_000,
}
FILES = ("train", "val", "test")
TEST_SHARE = 6  # the last image in six of every class


def read(root: Path) -> ImageLists:
    """Read ``train.csv``, ``val.csv`` and ``test.csv``: other classes each, numbered through in this order."""
    folder = official_file(NAME, root, "images")
    parts = {part: _read_csv(official_file(NAME, root, f"{part}.csv")) for part in FILES}
    classes: list[str] = []
    for part, files in parts.items():
        if twice := set(files) & set(classes):
            raise UsageError(f"{root / part}.csv: class {min(twice)} is in another list, too: these are other lists")
        classes += sorted(files)
    splits: dict[str, list[tuple[str, int]]] = {split: [] for split in EXPECTED}
    for part, files in parts.items():
        for wnid in sorted(files):
            label = classes.index(wnid)
            samples = [(_place(folder, wnid, file).relative_to(root).as_posix(), label) for file in sorted(files[wnid])]
            border = len(samples) - len(samples) // TEST_SHARE
            splits["train"] += samples[:border]
            splits["test"] += samples[border:]
            splits[f"fewshot_{part}"] += samples
    return ImageLists(splits, classes)


def _read_csv(path: Path) -> dict[str, list[str]]:
    """File names by class."""
    files = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream)
        if not {"filename", "label"} <= set(rows.fieldnames or ()):
            raise UsageError(f"{path} has the columns {rows.fieldnames}, expected filename and label: other lists")
        for row in rows:
            files[row["label"]].append(row["filename"])
    return files


def _place(folder: Path, wnid: str, file: str) -> Path:
    in_class = folder / wnid / file
    return in_class if in_class.is_file() else folder / file


if __name__ == "__main__":
    convert_to_lists(NAME, read, EXPECTED)
