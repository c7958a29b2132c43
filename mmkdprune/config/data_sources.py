"""Where the data sets of the configs come from, and what has to lie where; nothing here needs MMEngine."""

from pathlib import Path
from typing import NamedTuple


class DataSource(NamedTuple):
    """What a user has to do to get a data set.

    Args:
        title (str): Name of the set.
        root (str): Folder in which the configs look for it.
        download (str): What to download and how it has to lie in the root afterwards, one sentence.
        converter (str, optional): Script in ``tools/dataset_converters`` that has to be run once, without ``.py``.
    """

    title: str
    root: str
    download: str
    converter: str | None = None

    def command(self, root: str | Path | None = None) -> str:
        """Return the command that converts the set in a folder, or an empty string if there is nothing to convert."""
        if self.converter is None:
            return ""
        return f"python tools/dataset_converters/{self.converter}.py {root or self.root}"


# By the name of the data set's class.
SOURCES: dict[str, DataSource] = {
    "CUB": DataSource(
        "CUB-200-2011",
        "data/CUB_200_2011",
        "Download CUB_200_2011.tgz (https://www.vision.caltech.edu/datasets/cub_200_2011) and unpack it, so that "
        "images/, images.txt, image_class_labels.txt and train_test_split.txt lie in {root}",
    ),
    "FGVCAircraft": DataSource(
        "FGVC-Aircraft",
        "data/fgvc-aircraft-2013b",
        "Download fgvc-aircraft-2013b.tar.gz (https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft) and unpack it, so "
        "that data/images/ and data/images_variant_trainval.txt lie in {root}",
    ),
    "ImageNet": DataSource(
        "ImageNet",
        "data/imagenet",
        "ImageNet is expected as train/<class>/*.JPEG and val/<class>/*.JPEG (or val/*.JPEG with the labels in "
        "meta/val.txt) in {root}",
    ),
    "MIT67": DataSource(
        "MIT Indoor Scenes 67",
        "data/mit67",
        "Download indoorCVPR_09.tar, TrainImages.txt and TestImages.txt (https://web.mit.edu/torralba/www/indoor.html) "
        "and unpack the first, so that Images/<scene>/*.jpg and both lists lie in {root}",
        "mit67",
    ),
    "MiniImageNet": DataSource(
        "miniImageNet",
        "data/mini-imagenet",
        "Put the images into {root}/images (as <file name of the lists>, or in a folder a class) and the lists of Ravi "
        "and Larochelle (train.csv, val.csv and test.csv of https://github.com/twitter-research/meta-learning-lstm, "
        "data/miniImagenet) into {root}; the pickled versions of the set are not read, because a pickle can run code",
        "mini_imagenet",
    ),
    "STL10": DataSource(
        "STL-10",
        "data/stl10",
        "Download stl10_binary.tar.gz (https://cs.stanford.edu/~acoates/stl10) and unpack it in {root}, so that "
        "stl10_binary/train_X.bin lies there",
    ),
    "StanfordCars": DataSource(
        "Stanford Cars",
        "data/stanford-cars",
        "Put the images into {root} (car_ims/, or cars_train/ and cars_test/) with what labels them: cars_annos.mat "
        "for the former; devkit/ (car_devkit.tgz) and cars_test_annos_withlabels.mat for the latter. The official site "
        "is gone; https://github.com/pytorch/vision/issues/7545 names copies",
        "stanford_cars",
    ),
    "StanfordDogs": DataSource(
        "Stanford Dogs",
        "data/stanford-dogs",
        "Download images.tar and lists.tar (http://vision.stanford.edu/aditya86/ImageNetDogs) and unpack them, so that "
        "Images/<breed>/*.jpg, train_list.mat and test_list.mat lie in {root}",
        "stanford_dogs",
    ),
    "TinyImageNet": DataSource(
        "Tiny-ImageNet",
        "data/tiny-imagenet-200",
        "Download tiny-imagenet-200.zip (http://cs231n.stanford.edu/tiny-imagenet-200.zip) and unpack it, so that "
        "wnids.txt, train/<class>/images/*.JPEG and val/val_annotations.txt lie in {root}",
    ),
}


def what_to_do(name: str, root: str | Path) -> str:
    """Tell what to download, where to put it, and what to run afterwards.

    Args:
        name (str): Name of the data set's class, a key of ``SOURCES``.
        root (str | Path): The folder in which the set is looked for.

    Returns:
        str: The instructions, without a full stop.
    """
    source = SOURCES[name]
    command = source.command(root)
    return source.download.format(root=root) + (f". Then run once: {command}" if command else "")


def absent_message(name: str, root: str | Path, missing: str | Path) -> str:
    """Say that a file of a data set is not there, and what to do.

    Args:
        name (str): Name of the data set's class, a key of ``SOURCES``.
        root (str | Path): The folder in which the set is looked for.
        missing (str | Path): The file.

    Returns:
        str: The message.
    """
    command = SOURCES[name].command(root)
    advice = what_to_do(name, root)
    if command and Path(root).is_dir():  # the rest may be there already
        advice = f"Run once: {command}. It needs the official files: {SOURCES[name].download.format(root=root)}"
    return f"{SOURCES[name].title}: there is no {missing}. {advice}; or set data_root in the data set's config."
