"""Data sets of image files whose official lists ``tools/dataset_converters`` turns into one common form."""

from pathlib import Path
from typing import Any, ClassVar

from mmpretrain.datasets import CustomDataset

from mmkdprune.arguments import checked
from mmkdprune.config.data_sources import absent_message
from mmkdprune.registry import DATASETS

LISTS = "meta"  # the folder that the converters write


class _ListedImages(CustomDataset):
    """Images named in ``meta/<split>.txt``, one ``path label`` a line, with the classes' names in ``meta/classes.txt``.

    MMPretrain's ``CustomDataset`` reads these files, too.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "test")

    @checked
    def __init__(self, data_root: str, split: str = "train", **kwargs: Any) -> None:
        name = type(self).__name__
        if split not in self.splits:
            raise ValueError(f"{name}: split must be one of {', '.join(self.splits)}, got {split!r}.")
        for file in (Path(data_root, LISTS, f"{split}.txt"), Path(data_root, LISTS, "classes.txt")):
            if not file.is_file():
                raise FileNotFoundError(absent_message(name, data_root, file))
        classes = Path(data_root, LISTS, "classes.txt").read_text(encoding="utf-8").splitlines()
        kwargs.setdefault("classes", classes)
        super().__init__(data_root=data_root, ann_file=f"{LISTS}/{split}.txt", **kwargs)


@DATASETS.register_module()
class StanfordDogs(_ListedImages):
    """Stanford Dogs: 20,580 photographs of 120 breeds; 100 of each for training, the rest for testing.

    Needs ``tools/dataset_converters/stanford_dogs.py`` to have been run once.

    Source: Khosla et al., "Novel Dataset for Fine-Grained Image Categorization", CVPR workshop 2011.

    Args:
        data_root (str): Folder with ``Images`` and ``meta``.
        split (str): ``'train'`` (12,000 images) or ``'test'`` (8,580). Defaults to ``'train'``.
        **kwargs: Further arguments of MMPretrain's ``CustomDataset``.

    Raises:
        FileNotFoundError: If the lists are not there; says what to download, where to put it and what to run.
        ValueError: If the split is unknown.
    """


@DATASETS.register_module()
class MIT67(_ListedImages):
    """MIT Indoor Scenes: 67 scenes, about 80 images of each for training and 20 for testing.

    Needs ``tools/dataset_converters/mit67.py`` to have been run once.

    Source: Quattoni and Torralba, "Recognizing Indoor Scenes", CVPR 2009.

    Args:
        data_root (str): Folder with ``Images`` and ``meta``.
        split (str): ``'train'`` (5,360 images) or ``'test'`` (1,340). Defaults to ``'train'``.
        **kwargs: Further arguments of MMPretrain's ``CustomDataset``.

    Raises:
        FileNotFoundError: If the lists are not there; says what to download, where to put it and what to run.
        ValueError: If the split is unknown.
    """


@DATASETS.register_module()
class StanfordCars(_ListedImages):
    """Stanford Cars: 16,185 photographs of 196 models.

    Unlike MMPretrain's class of this name it reads every layout in which copies of the set go around, once
    ``tools/dataset_converters/stanford_cars.py`` has been run on it.

    Source: Krause et al., "3D Object Representations for Fine-Grained Categorization", ICCV workshop 2013.

    Args:
        data_root (str): Folder with the images and ``meta``.
        split (str): ``'train'`` (8,144 images) or ``'test'`` (8,041). Defaults to ``'train'``.
        **kwargs: Further arguments of MMPretrain's ``CustomDataset``.

    Raises:
        FileNotFoundError: If the lists are not there; says what to download, where to put it and what to run.
        ValueError: If the split is unknown.
    """


@DATASETS.register_module()
class MiniImageNet(_ListedImages):
    """miniImageNet: 100 classes of ImageNet with 600 images each.

    Made for few-shot learning, where training, validation and test classes differ (64, 16 and 20). For ordinary
    classification the converter also splits the images of all 100 classes: in the order of their names, the first 500
    of each for training and the last 100 for testing. Both number the classes alike, training classes first.

    Needs ``tools/dataset_converters/mini_imagenet.py`` to have been run once.

    Source: Vinyals et al., "Matching Networks for One Shot Learning", NeurIPS 2016, with the classes of Ravi and
    Larochelle, "Optimization as a Model for Few-Shot Learning", ICLR 2017.

    Args:
        data_root (str): Folder with ``images`` and ``meta``.
        split (str): ``'train'`` (default) and ``'test'``: all classes; ``'fewshot_train'``, ``'fewshot_val'`` and
            ``'fewshot_test'``: all images of labels 0 to 63, 64 to 79 and 80 to 99.
        **kwargs: Further arguments of MMPretrain's ``CustomDataset``.

    Raises:
        FileNotFoundError: If the lists are not there; says what to download, where to put it and what to run.
        ValueError: If the split is unknown.
    """

    splits = ("train", "test", "fewshot_train", "fewshot_val", "fewshot_test")
