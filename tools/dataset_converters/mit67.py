"""List the images of MIT Indoor Scenes 67 for ``mmkdprune.MIT67``; see ``--help``."""

from pathlib import Path

from mmkdprune.commands.dataset_conversion import ImageLists, convert_to_lists, official_file
from mmkdprune.errors import UsageError

NAME = "MIT67"
EXPECTED = {"train": 5_360, "test": 1_340}


def read(root: Path) -> ImageLists:
    """Read ``TrainImages.txt`` and ``TestImages.txt``; labels follow the sorted names of the scenes."""
    images = official_file(NAME, root, "Images").name
    files = {}
    for split in EXPECTED:
        path = official_file(NAME, root, f"{split.capitalize()}Images.txt")
        files[split] = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if wrong := [line for line in files[split] if "/" not in line]:
            raise UsageError(f"{path}: {wrong[0]!r} is no scene/image.jpg: download the list again")
    scenes = sorted({line.split("/")[0] for lines in files.values() for line in lines})
    splits = {
        split: [(f"{images}/{line}", scenes.index(line.split("/")[0])) for line in lines]
        for split, lines in files.items()
    }
    return ImageLists(splits, scenes)


if __name__ == "__main__":
    convert_to_lists(NAME, read, EXPECTED)
