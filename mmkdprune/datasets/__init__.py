"""Data sets and samplers; importing this package registers them."""

from mmkdprune.compat.photometric import patch_hue
from mmkdprune.compat.precise_bn import patch_precise_bn
from mmkdprune.compat.unreadable_images import patch_image_loading
from mmkdprune.compat.versions import require

require("mmpretrain")  # passes an error inside MMPretrain on under its name
patch_hue()
patch_image_loading()
patch_precise_bn()

from .batched import BatchedDataset  # noqa: E402
from .cifar import CIFAR10, CIFAR100  # noqa: E402
from .class_pair_batch_sampler import ClassPairBatchSampler  # noqa: E402
from .class_split import ClassSplit  # noqa: E402
from .digit_scenes import DigitScenes  # noqa: E402
from .digits import Digits  # noqa: E402
from .labels import read_labels  # noqa: E402
from .listed_images import MIT67, MiniImageNet, StanfordCars, StanfordDogs  # noqa: E402
from .omniglot import Omniglot  # noqa: E402
from .stl10 import STL10  # noqa: E402
from .subsets import ClassSubset, StratifiedSubset  # noqa: E402
from .tiny_imagenet import TinyImageNet  # noqa: E402

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MIT67",
    "STL10",
    "BatchedDataset",
    "ClassPairBatchSampler",
    "ClassSplit",
    "ClassSubset",
    "DigitScenes",
    "Digits",
    "Omniglot",
    "MiniImageNet",
    "StanfordCars",
    "StanfordDogs",
    "StratifiedSubset",
    "TinyImageNet",
    "read_labels",
]
