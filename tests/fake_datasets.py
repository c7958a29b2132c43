"""Tiny copies of official data set folders, with the files, names and encodings of the real ones."""

import struct
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from scipy.io import savemat


def image(path: Path, value: int = 100, size: tuple[int, int] = (12, 16)) -> None:
    """Write an image of one grey value, which JPEG keeps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*size, 3), value, np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 100])


def cells(values: Iterable[str], column: bool = False) -> np.ndarray:
    """A MATLAB cell array of strings."""
    values = list(values)
    array = np.empty((len(values), 1) if column else (1, len(values)), object)
    array.flat[:] = values
    return array


def structs(rows: list[dict]) -> np.ndarray:
    """A MATLAB struct array."""
    array = np.empty((1, len(rows)), [(name, object) for name in rows[0]])
    for number, row in enumerate(rows):
        array[0, number] = tuple(row.values())
    return array


def cub(root: Path) -> None:
    """Three classes of CUB-200-2011 with two images each: one for training, one for testing."""
    names = [f"{label:03d}.Bird/Bird_{number}.jpg" for label in (1, 2, 200) for number in (1, 2)]
    for number, name in enumerate(names):
        image(root / "images" / name, 40 * number)
    lines = list(enumerate(names, start=1))
    (root / "images.txt").write_text("".join(f"{index} {name}\n" for index, name in lines))
    (root / "image_class_labels.txt").write_text("".join(f"{index} {int(name[:3])}\n" for index, name in lines))
    (root / "train_test_split.txt").write_text("".join(f"{index} {index % 2}\n" for index, _ in lines))


def aircraft(root: Path) -> None:
    """Two variants of FGVC-Aircraft."""
    lines = {"trainval": ["0000001 707-320", "0000002 F-16A/B"], "test": ["0000003 707-320"]}
    for split, named in lines.items():
        (root / "data").mkdir(parents=True, exist_ok=True)
        (root / "data" / f"images_variant_{split}.txt").write_text("".join(f"{line}\n" for line in named))
        for line in named:
            image(root / "data" / "images" / f"{line.split()[0]}.jpg")


def dogs(root: Path) -> None:
    """Two breeds of Stanford Dogs."""
    breeds = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel")
    for split, numbers in (("train", (1, 2)), ("test", (3,))):
        files = [f"{breed}/{breed[:9]}_{number}.jpg" for breed in breeds for number in numbers]
        for file in files:
            image(root / "Images" / file)
        labels = np.array([[breeds.index(file.split("/")[0]) + 1] for file in files], np.float64)
        savemat(
            root / f"{split}_list.mat",
            {"file_list": cells(files, column=True), "annotation_list": cells(files, column=True), "labels": labels},
            do_compression=True,
        )


def mit67(root: Path) -> None:
    """Two scenes of MIT Indoor Scenes; the lists have blank lines and Windows line ends here and there."""
    files = {"Train": ["bar/b 1.jpg", "airport_inside/a1.jpg"], "Test": ["airport_inside/a2.jpg"]}
    for split, names in files.items():
        for name in names:
            image(root / "Images" / name)
        (root / f"{split}Images.txt").write_text("\r\n".join(names) + "\n\n", newline="")


def cars(root: Path, layout: str = "devkit") -> None:
    """Two models of Stanford Cars, as ``'one folder'``, ``'devkit'`` or ``'nested'`` with a list of other names."""
    classes = cells(["AM General Hummer SUV 2000", "Acura RL Sedan 2012"])
    if layout in ("one folder", "nested"):
        rows = [
            {"relative_im_path": f"car_ims/{number:06d}.jpg", "class": np.uint8(label), "test": np.uint8(test)}
            for number, label, test in ((1, 1, 1), (2, 2, 0), (3, 1, 0))
        ]
        root.mkdir(parents=True, exist_ok=True)
        savemat(root / "cars_annos.mat", {"annotations": structs(rows), "class_names": classes})
        if layout == "one folder":
            for row in rows:
                image(root / row["relative_im_path"])
            return
    inner = "cars_{0}/cars_{0}" if layout == "nested" else "cars_{0}"
    (root / "devkit").mkdir(parents=True, exist_ok=True)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": classes})
    for split, labels in (("train", (2, 1)), ("test", (1,))):
        rows = [{"class": np.uint8(label), "fname": f"{row:05d}.jpg"} for row, label in enumerate(labels, start=1)]
        name = "cars_train_annos.mat" if split == "train" else "cars_test_annos_withlabels.mat"
        place = root if layout == "nested" and split == "test" else root / "devkit"
        savemat(place / name, {"annotations": structs([*rows])})
        for row in rows:
            image(root / inner.format(split) / row["fname"])


def tiny_imagenet(root: Path, images: int = 3, classes: int = 2) -> None:
    """Classes of Tiny-ImageNet whose identifiers are not in order, as in the official file."""
    wnids = [f"n{4000000 - number:08d}" for number in range(classes)]
    lines = []
    for number, wnid in enumerate(wnids):
        for index in range(images):
            image(root / "train" / wnid / "images" / f"{wnid}_{index}.JPEG", (60 * number + index) % 256, (64, 64))
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t10\t63\t58\n")
        image(root / "val" / "images" / f"val_{number}.JPEG", 60 * number % 256, (64, 64))
        lines.append(f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(wnids))
    (root / "words.txt").write_text(f"n00001740\tentity\n{wnids[0]}\tlemon, citrus fruit\n")


def mini_imagenet(root: Path, in_class_folders: bool = False) -> None:
    """miniImageNet with one class a list and six images a class."""
    for part, wnid in (("train", "n02000000"), ("val", "n01000000"), ("test", "n03000000")):
        names = [f"{wnid}{number:08d}.jpg" for number in range(6)]
        for name in names:
            image(root / "images" / (wnid if in_class_folders else "") / name, size=(84, 84))
        rows = "".join(f"{name},{wnid}\n" for name in reversed(names))
        (root / f"{part}.csv").write_text(f"filename,label\n{rows}")


def stl10(root: Path, images: dict[str, int]) -> None:
    """STL-10 with other numbers of images: the data set class has to be told them."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    for part, number in images.items():
        row, column = np.mgrid[:96, :96]
        planes = np.stack([np.stack([row + index, column, np.full_like(row, 7)]) for index in range(number)])
        planes.transpose(0, 1, 3, 2).astype(np.uint8).tofile(folder / f"{part}_X.bin")  # column by column
        if part != "unlabeled":
            (folder / f"{part}_y.bin").write_bytes(
                struct.pack(f"{number}B", *(index % 10 + 1 for index in range(number)))
            )
    (folder / "fold_indices.txt").write_text("0 2 \n1 3 \n")
    (folder / "class_names.txt").write_text("airplane\n")
