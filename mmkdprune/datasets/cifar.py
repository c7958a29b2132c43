"""CIFAR-10 and CIFAR-100 from their standard folders, with checksums that can be switched off."""

import io
import pickle
from pathlib import Path
from typing import Any, ClassVar

import mmpretrain.datasets.cifar as mmpretrain_cifar
import numpy as np

from mmkdprune.arguments import check_choice, checked
from mmkdprune.registry import DATASETS

IMAGES = {"train": 50_000, "test": 10_000}


class _ArrayUnpickler(pickle.Unpickler):
    """Reads the containers, strings and arrays of the CIFAR files and refuses everything else."""

    allowed = frozenset({"_reconstruct", "ndarray", "dtype", "encode"})
    modules = frozenset({"numpy", "numpy.core.multiarray", "numpy._core.multiarray", "_codecs"})

    def find_class(self, module: str, name: str) -> Any:
        if module in self.modules and name in self.allowed:
            return super().find_class(module.replace("numpy.core", "numpy._core") if _HAS_CORE else module, name)
        raise pickle.UnpicklingError(f"it contains {module}.{name}, which no CIFAR file needs")


_HAS_CORE = hasattr(np, "_core")


class _StandardFolder(mmpretrain_cifar.CIFAR10):
    """What both sets share; MMPretrain's CIFAR-100 is a subclass of its CIFAR-10."""

    set_name: ClassVar[str]
    label_key: ClassVar[str]

    @checked
    def __init__(
        self, data_root: str = "", split: str = "train", check_md5: bool = True, download: bool = False, **kwargs: Any
    ) -> None:
        check_choice(f"{type(self).__name__}: split", split, ("train", "test"))
        self.check_md5 = check_md5
        super().__init__(data_root=data_root, split=split, download=download, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return one dict with ``img`` (uint8, (32, 32, 3), RGB) and ``gt_label`` an image of the split."""
        folder = Path(self.data_prefix["root"]) / self.base_folder
        names = [name for name, _ in (self.train_list if self.split == "train" else self.test_list)]
        if self.download and not all((folder / name).is_file() for name in names):
            self._download()
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise FileNotFoundError(
                f"{self.set_name}: no file {', '.join(missing)} in {folder}. Unpack {self.filename} (the 'python "
                f"version') in {self.data_prefix['root']}, so that {', '.join(str(folder / name) for name in names)} "
                "exist, or set download=True in the data set's config."
            )
        if self.check_md5 and not self._check_integrity():
            raise ValueError(
                f"{self.set_name}: the files in {folder} are not the official ones (md5). If you trust them, set "
                "check_md5=False in the data set's config."
            )
        images, labels = zip(
            *(self._read(folder / name, IMAGES[self.split] // len(names)) for name in names), strict=True
        )
        return [
            {"img": image, "gt_label": int(label)}
            for image, label in zip(np.concatenate(images), np.concatenate(labels), strict=True)
        ]

    def _download(self) -> None:
        import mmengine.dist as dist

        if dist.is_main_process():
            mmpretrain_cifar.download_and_extract_archive(
                self.url, self.data_prefix["root"], filename=self.filename, md5=self.tgz_md5
            )
        dist.barrier()

    def _read(self, path: Path, number: int) -> tuple[np.ndarray, np.ndarray]:
        try:
            entry = _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
            pixels, labels = np.asarray(entry["data"]), np.asarray(entry[self.label_key])
        except (pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
            message = f"{path} is damaged or no {self.set_name} file ({error}): unpack it again."
            raise ValueError(f"{self.set_name}: {message}") from None
        expected = (number, 3 * 32 * 32)
        if pixels.shape != expected or labels.shape != expected[:1]:
            raise ValueError(f"{self.set_name}: {path} holds data of shape {pixels.shape}, expected {expected}.")
        return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


@DATASETS.register_module()
class CIFAR100(_StandardFolder, mmpretrain_cifar.CIFAR100):
    """CIFAR-100: 60,000 images of 32x32 px, 100 classes.

    MMPretrain's class with three differences: checksums can be switched off (for a copy of the set whose files were
    written anew), the files are read without running code that they may hold, and a missing folder is explained.

    Args:
        data_root (str): Folder that holds ``cifar-100-python``.
        split (str): ``'train'`` or ``'test'``. Defaults to ``'train'``.
        check_md5 (bool): Refuse files that are not the official ones, byte for byte. Defaults to True.
        download (bool): Download the official archive when the folder is missing. Defaults to False.
        **kwargs: Further arguments of MMPretrain's ``CIFAR100``.

    Raises:
        FileNotFoundError: If the folder is missing and ``download`` is False.
        ValueError: If a file is not what CIFAR-100 should hold.
    """

    set_name = "CIFAR-100"
    label_key = "fine_labels"


@DATASETS.register_module()
class CIFAR10(_StandardFolder):
    """CIFAR-10: 60,000 images of 32x32 px, 10 classes.

    MMPretrain's class with the differences and arguments of :class:`CIFAR100`; ``data_root`` holds
    ``cifar-10-batches-py``.
    """

    set_name = "CIFAR-10"
    label_key = "labels"
