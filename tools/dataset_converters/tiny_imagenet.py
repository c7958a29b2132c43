"""List the images of Tiny-ImageNet for MMPretrain's ``CustomDataset``; see ``--help``.

``mmkdprune.TinyImageNet`` reads the official folder as it is and needs no lists.
"""

from pathlib import Path

from mmkdprune.commands.dataset_conversion import ImageLists, convert_to_lists, official_file

NAME = "TinyImageNet"
EXPECTED = {"train": 100_000, "val": 10_000}


def read(root: Path) -> ImageLists:
    """Read the training folders and ``val/val_annotations.txt`` by the data set's own class."""
    from mmkdprune.datasets import TinyImageNet

    for name in ("wnids.txt", *EXPECTED):
        official_file(NAME, root, name)
    parts = {split: TinyImageNet(data_root=str(root), split=split) for split in EXPECTED}
    infos = {split: map(part.get_data_info, range(len(part))) for split, part in parts.items()}
    splits = {
        split: [(Path(info["img_path"]).relative_to(root).as_posix(), info["gt_label"]) for info in samples]
        for split, samples in infos.items()
    }
    return ImageLists(splits, list(parts["train"].metainfo["classes"]))


if __name__ == "__main__":
    convert_to_lists(NAME, read, EXPECTED)
