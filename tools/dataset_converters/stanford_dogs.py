"""List the images of Stanford Dogs for ``mmkdprune.StanfordDogs``; see ``--help``."""

from pathlib import Path

from mmkdprune.commands.dataset_conversion import ImageLists, convert_to_lists, official_file, read_mat
from mmkdprune.errors import UsageError

NAME = "StanfordDogs"
EXPECTED = {"train": 12_000, "test": 8_580}


def read(root: Path) -> ImageLists:
    """Read ``train_list.mat`` and ``test_list.mat``."""
    images = official_file(NAME, root, "Images", "images").name
    splits: dict[str, list[tuple[str, int]]] = {}
    breeds: dict[int, str] = {}
    for split in EXPECTED:
        path = official_file(NAME, root, f"{split}_list.mat", f"lists/{split}_list.mat")
        files, labels = read_mat(NAME, path, "file_list", "labels")
        splits[split] = [(f"{images}/{file}", int(label) - 1) for file, label in zip(files, labels, strict=True)]
        for file, label in zip(files, labels, strict=True):
            folder = str(file).split("/")[0]
            if breeds.setdefault(int(label) - 1, folder) != folder:
                raise UsageError(f"{path}: label {int(label)} belongs to {breeds[int(label) - 1]} and to {folder}")
    if sorted(breeds) != list(range(len(breeds))):
        raise UsageError(f"{root}: the lists have labels {sorted(breeds)[:3]}..., not 1 to {len(breeds)}")
    # n02085620-Chihuahua
    return ImageLists(splits, [breeds[label].partition("-")[2] or breeds[label] for label in range(len(breeds))])


if __name__ == "__main__":
    convert_to_lists(NAME, read, EXPECTED)
