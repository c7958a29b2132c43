"""The dataloader block around a ``BatchedDataset``, in a config; nothing here needs MMPretrain."""

from collections.abc import MutableMapping
from typing import Any

BATCHED = ("BatchedDataset", "mmkdprune.BatchedDataset")
# Batches are made in the main process, and images on a GPU cannot be pinned.
LOADER_SETTINGS: dict[str, Any] = {"num_workers": 0, "persistent_workers": False, "pin_memory": False}


def is_batched(dataset: Any) -> bool:
    """Tell whether the config of a data set is that of a ``BatchedDataset``."""
    return isinstance(dataset, MutableMapping) and dataset.get("type") in BATCHED


def complete_batched_loader(loader: MutableMapping[str, Any], name: str = "train_dataloader") -> bool:
    """Give a dataloader of a ``BatchedDataset`` what it needs beside it.

    Args:
        loader (MutableMapping[str, Any]): The dataloader's config; changed in place.
        name (str): Its field, for messages.

    Returns:
        bool: Whether its data set is a ``BatchedDataset``; nothing is changed otherwise.

    Raises:
        ValueError: If it has worker processes.
    """
    if not is_batched(loader.get("dataset")):
        return False
    if loader.get("num_workers", 0):
        raise ValueError(
            f"{name}.num_workers is {loader['num_workers']}, but mmkdprune.BatchedDataset makes batches in the main "
            f"process: set {name}.num_workers=0 and {name}.persistent_workers=False."
        )
    loader.pop("prefetch_factor", None)
    loader.update(LOADER_SETTINGS, collate_fn={"type": "mmkdprune.batched_collate"})
    return True
