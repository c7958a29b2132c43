"""Write the images of STL-10 as PNG files in a folder a class, for programs that read folders; see ``--help``.

``mmkdprune.STL10`` reads the official binary files and needs no conversion.
"""

import shutil
from pathlib import Path

import cv2

from mmkdprune.commands.command_line import readable_errors
from mmkdprune.commands.dataset_conversion import parser_for
from mmkdprune.config.data_sources import SOURCES, what_to_do
from mmkdprune.errors import UsageError

NAME = "STL10"
SPLITS = ("train", "test", "unlabeled")


def write(root: Path, split: str, target: Path) -> int:
    """Write one split and return the number of its images."""
    from mmkdprune.datasets import STL10

    data = STL10(data_root=str(root), split=split)
    for number in range(len(data)):
        info = data.get_data_info(number)
        name = data.metainfo["classes"][info["gt_label"]] if "gt_label" in info else split
        (target / name).mkdir(parents=True, exist_ok=True)
        path = target / name / f"{number:06d}.png"
        if not cv2.imwrite(str(path), info["img"][..., ::-1]):
            raise UsageError(f"{path} cannot be written")
    return len(data)


def main() -> None:
    """Convert; see the module's docstring."""
    parser = parser_for(NAME, "write the images as images/<split>/<class>/*.png")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=["train", "test"], help="default: train test")
    args = parser.parse_args()
    with readable_errors(args.debug):
        root = Path(args.root)
        if not root.is_dir():
            raise UsageError(f"{SOURCES[NAME].title}: there is no folder {root}. {what_to_do(NAME, root)}")
        for split in args.splits:
            target, unfinished = root / "images" / split, root / "images" / f".{split}.unfinished"
            if target.exists() and not args.overwrite:
                raise UsageError(f"{target} exists already: add --overwrite to replace it")
            shutil.rmtree(unfinished, ignore_errors=True)
            number = write(root, split, unfinished)
            shutil.rmtree(target, ignore_errors=True)
            unfinished.rename(target)
            print(f"{target}: {number:,} images")


if __name__ == "__main__":
    main()
