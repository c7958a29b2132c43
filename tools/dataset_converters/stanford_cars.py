"""List the images of Stanford Cars for ``mmkdprune.StanfordCars``; see ``--help``.

The official site is gone, and copies of the set differ in their layout: all images in ``car_ims`` with
``cars_annos.mat``, or ``cars_train`` and ``cars_test`` (in some copies with another folder of that name inside) with a
``devkit``, and the labels of the test images inside or beside it.
"""

from pathlib import Path

from mmkdprune.commands.dataset_conversion import ImageLists, convert_to_lists, official_file, read_mat

NAME = "StanfordCars"
EXPECTED = {"train": 8_144, "test": 8_041}


def read(root: Path) -> ImageLists:
    """Read whichever annotations belong to the images that are there."""
    if (root / "car_ims").is_dir():
        annotations, classes = read_mat(
            NAME, official_file(NAME, root, "cars_annos.mat", "devkit/cars_annos.mat"), "annotations", "class_names"
        )
        splits: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
        for entry in annotations:
            splits["test" if entry["test"] else "train"].append((entry["relative_im_path"], int(entry["class"]) - 1))
        return ImageLists(splits, list(classes))
    # A cars_annos.mat beside these images names others.
    splits = {}
    for split, file in (("train", "cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        folder = official_file(NAME, root, f"cars_{split}/cars_{split}", f"cars_{split}").relative_to(root).as_posix()
        (annotations,) = read_mat(NAME, official_file(NAME, root, f"devkit/{file}", file), "annotations")
        splits[split] = [(f"{folder}/{entry['fname']}", int(entry["class"]) - 1) for entry in annotations]
    (classes,) = read_mat(NAME, official_file(NAME, root, "devkit/cars_meta.mat", "cars_meta.mat"), "class_names")
    return ImageLists(splits, list(classes))


if __name__ == "__main__":
    convert_to_lists(NAME, read, EXPECTED)
