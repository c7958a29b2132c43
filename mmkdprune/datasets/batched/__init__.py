"""Small images as one tensor: batches by index, augmented as a whole."""

from .dataset import BatchedDataset, BatchedSamples, batched_collate
from .loaders import use_batched_loaders
from .transforms import BatchCutout, BatchRandomCrop, BatchRandomFlip, BatchTransform, batched_transform

__all__ = [
    "BatchCutout",
    "BatchRandomCrop",
    "BatchRandomFlip",
    "BatchTransform",
    "BatchedDataset",
    "BatchedSamples",
    "batched_collate",
    "batched_transform",
    "use_batched_loaders",
]
