"""A classification data set of small images as one tensor."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmpretrain.structures import DataSample
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from mmkdprune.arguments import checked
from mmkdprune.randomness import derive_seed, to_device
from mmkdprune.registry import DATASETS, FUNCTIONS

from .loading import load_images, split_pipeline
from .transforms import BatchRandomCrop

DEVICES = ("auto", "cpu", "cuda")
COLLATE = "collate_fn=dict(type='mmkdprune.batched_collate')"


class BatchedSamples:
    """A whole batch on its way from the data set through the loader; ``batched_collate`` opens it.

    Args:
        batch (dict[str, Any]): ``inputs`` and ``data_samples``.
    """

    def __init__(self, batch: dict[str, Any]) -> None:
        self.batch = batch

    def __getitem__(self, index: int) -> Any:
        raise TypeError(
            f"BatchedDataset makes whole batches, which another collate_fn cannot join: set {COLLATE} in its "
            "dataloader (mmkdprune train and mmkdprune test do so by themselves)."
        )


@FUNCTIONS.register_module()
def batched_collate(samples: BatchedSamples) -> dict[str, Any]:
    """Pass a batch of :class:`BatchedDataset` on; for ``collate_fn`` of a dataloader.

    Args:
        samples (BatchedSamples): What ``BatchedDataset.__getitems__`` returns.

    Returns:
        dict[str, Any]: ``inputs`` and ``data_samples``, as MMEngine's loops expect them.

    Raises:
        TypeError: If the data set is another one.
    """
    if not isinstance(samples, BatchedSamples):
        raise TypeError(
            "mmkdprune.batched_collate is for a dataloader whose dataset is mmkdprune.BatchedDataset itself. Put "
            "wrappers such as RepeatDataset inside of it, dataset=dict(type='mmkdprune.BatchedDataset', dataset=dict("
            "type='RepeatDataset', ...)), or remove collate_fn."
        )
    return samples.batch


@DATASETS.register_module()
class BatchedDataset(Dataset):
    """Hold all images of a data set in one uint8 tensor and augment whole batches.

    Wraps any classification data set whose images have one size after the fixed part of its pipeline (loading,
    resizing), which is run once. Its random part (``RandomCrop``, ``RandomFlip``, ``Cutout``) is then applied to whole
    batches, with other random numbers for each image and the distribution of the per-image transforms. What comes out
    is what the ordinary loader gives: ``inputs``, uint8, (B, C, H, W), and one ``DataSample`` an image. In a config::

        train_dataloader = dict(
            num_workers=0,
            persistent_workers=False,
            pin_memory=False,
            collate_fn=dict(type='mmkdprune.batched_collate'),
            dataset=dict(
                _delete_=True, type='mmkdprune.BatchedDataset', dataset={{_base_.train_dataloader.dataset}}))

    Sampler and batch size stay. Each batch takes one number from PyTorch's global stream and mixes it with the rank;
    all random numbers of the batch follow from that, on the CPU and on a GPU alike. So a seed determines them, ranks
    differ, and ``RandomStateHook`` resumes them bit by bit.

    Args:
        dataset (dict | Dataset): The data set, or its config.
        device (str): Where the images are kept: ``'cpu'``, ``'cuda'``, or ``'auto'`` (default): the GPU in use if they
            take no more than a quarter of its free memory, the host otherwise.
        memory_limit (float): Largest size of all images, in bytes. Defaults to 4e9.

    Raises:
        ValueError: If images differ in size or are no bytes, do not fit into ``memory_limit``, have several labels, or
            the pipeline holds a transform that has no counterpart for batches.
    """

    @checked
    def __init__(self, dataset: Any, device: str = "auto", memory_limit: float = 4e9) -> None:
        _check_arguments(device, memory_limit)
        self.dataset: Any = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        if isinstance(self.dataset, BatchedDataset):
            raise ValueError(
                "BatchedDataset: its dataset is a BatchedDataset itself: give the data set inside that one."
            )
        self.full_init()
        fixed, self.transforms, keys = split_pipeline(self.dataset)
        images, labels, self.meta = load_images(self.dataset, fixed, memory_limit, keys)
        size = (images.shape[2], images.shape[3])
        self.sizes: list[tuple[int, int]] = []  # of the images before each transform
        for transform in self.transforms:
            self.sizes.append(size)
            size = transform.output_size(size)
        target = torch.device(device if device != "auto" else _device_for(images))
        self.images = images.to(target)
        self.labels = None if labels is None else labels.to(target)
        if "img_shape" in keys and any(isinstance(transform, BatchRandomCrop) for transform in self.transforms):
            self.meta = [dict(meta, img_shape=size) for meta in self.meta]

    def __getitems__(self, indices: Sequence[int]) -> BatchedSamples:
        if get_worker_info() is not None:
            raise ValueError(
                "BatchedDataset makes batches in the main process: set num_workers=0 and persistent_workers=False in "
                "its dataloader."
            )
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        draws = [chosen]
        if self.transforms:
            generator = torch.Generator().manual_seed(_batch_seed())
            for transform, size in zip(self.transforms, self.sizes, strict=True):
                draws += transform.draw(len(chosen), size, generator)
        rows = to_device(torch.stack(draws), self.images.device)  # one transfer for all of them
        images = self.images.index_select(0, rows[0])
        for number, transform in enumerate(self.transforms):
            images = transform(images, *rows[1 + 2 * number : 3 + 2 * number])
        labels = None if self.labels is None else self.labels.index_select(0, rows[0])
        return BatchedSamples({"inputs": images, "data_samples": self._data_samples(chosen.tolist(), labels)})

    def _data_samples(self, indices: list[int], labels: Tensor | None) -> list[DataSample]:
        """What PackInputs makes of each image, without its checks: they would take longer than the whole batch."""
        samples = []
        columns = [None] * len(indices) if labels is None else labels.split(1)
        for index, label in zip(indices, columns, strict=True):
            sample = DataSample.__new__(DataSample)
            meta = self.meta[index]
            fields: dict[str, Any] = vars(sample)
            fields["_metainfo_fields"] = set(meta)
            fields["_data_fields"] = set() if label is None else {"gt_label"}
            fields.update(meta)
            if label is not None:
                fields["gt_label"] = label
            samples.append(sample)
        return samples

    def __getitem__(self, index: int) -> dict[str, Any]:
        batch = self.__getitems__([range(len(self))[index]]).batch
        return {"inputs": batch["inputs"][0], "data_samples": batch["data_samples"][0]}

    def __len__(self) -> int:
        return len(self.images) if hasattr(self, "images") else len(self.dataset)

    @property
    def metainfo(self) -> dict[str, Any]:
        """Meta information of the wrapped data set."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Load the wrapped data set, where that was put off."""
        if hasattr(self.dataset, "full_init"):
            self.dataset.full_init()

    def get_gt_labels(self) -> np.ndarray:
        """Return the labels of all images, (N,).

        Raises:
            ValueError: If the images have none.
        """
        if self.labels is None:
            raise ValueError(f"BatchedDataset: {type(self.dataset).__name__} has no labels (gt_label).")
        return self.labels.cpu().numpy()

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the class of an image as a list."""
        return [] if self.labels is None else [int(self.labels[idx])]

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return the annotation of an image."""
        return self.dataset.get_data_info(idx)


def _check_arguments(device: str, memory_limit: float) -> None:
    if device not in DEVICES:
        raise ValueError(f"BatchedDataset: device must be one of {DEVICES}, got {device!r}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("BatchedDataset: device='cuda', but no CUDA GPU is visible: set device='auto' or 'cpu'.")
    if isinstance(memory_limit, bool) or not isinstance(memory_limit, int | float) or memory_limit <= 0:
        raise ValueError(
            f"BatchedDataset: memory_limit must be a positive number of bytes (4e9), got {memory_limit!r}."
        )


def _batch_seed() -> int:
    drawn = int(torch.randint(2**62, (), dtype=torch.int64))
    return derive_seed("batch", drawn, get_rank()) % 2**63


def _device_for(images: Tensor) -> str:
    if not torch.cuda.is_available():
        return "cpu"
    free, _ = torch.cuda.mem_get_info()
    return "cuda" if images.numel() <= free / 4 else "cpu"
