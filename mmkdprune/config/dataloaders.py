"""Dataloader blocks of a config: their defaults, and what a ``BatchedDataset`` needs; nothing here needs MMPretrain."""

from collections.abc import MutableMapping, Sequence
from typing import Any

from mmengine.config import Config

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


def set_dataloader_defaults(
    config: Config, fields: Sequence[str], pin_memory: bool, persistent_workers: bool | None = None
) -> None:
    """Give dataloaders the defaults of MMPretrain's tools; what the config says itself stays.

    Args:
        config: Changed in place.
        fields: Names of the dataloaders.
        pin_memory: Default of ``pin_memory``; ``False`` overrides the config.
        persistent_workers: Likewise; ``None`` leaves it alone. It needs worker processes: without them it is off.
    """
    for field in fields:
        loader = config.get(field)
        if loader is None or complete_batched_loader(loader, field):
            continue
        loader.setdefault("pin_memory", pin_memory)
        loader.pin_memory = loader.pin_memory and pin_memory
        if persistent_workers is not None:
            loader.setdefault("persistent_workers", persistent_workers)
            loader.persistent_workers = bool(loader.persistent_workers and persistent_workers)
        if not loader.get("num_workers", 0):
            loader.persistent_workers = False
        # MMDetection and MMSegmentation batch lists of images of different size: theirs is MMEngine's default.
        if config.get("default_scope", "mmpretrain") in ("mmpretrain", "mmkdprune"):
            loader.setdefault("collate_fn", {"type": "default_collate"})
