"""Turn the dataloaders of a config into batched ones."""

from collections.abc import MutableMapping
from typing import Any

from mmengine.registry import DefaultScope

BATCHED = ("BatchedDataset", "mmkdprune.BatchedDataset")
# Batches are made in the main process, and images on a GPU cannot be pinned.
LOADER_SETTINGS: dict[str, Any] = {"num_workers": 0, "persistent_workers": False, "pin_memory": False}
# Wrappers that choose images; others repeat them.
SUBSETS = ("StratifiedSubset", "ClassSubset")
# Data sets that are in memory as arrays.
SMALL_SETS = ("CIFAR10", "CIFAR100", "Digits", "MNIST", "FashionMNIST")
FIELDS = ("train_dataloader", "val_dataloader", "test_dataloader")


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
    dataset = loader.get("dataset")
    if not isinstance(dataset, MutableMapping) or dataset.get("type") not in BATCHED:
        return False
    if loader.get("num_workers", 0):
        raise ValueError(
            f"{name}.num_workers is {loader['num_workers']}, but mmkdprune.BatchedDataset makes batches in the main "
            f"process: set {name}.num_workers=0 and {name}.persistent_workers=False."
        )
    loader.pop("prefetch_factor", None)
    loader.update(LOADER_SETTINGS, collate_fn={"type": "mmkdprune.batched_collate"})
    return True


def use_batched_loaders(config: Any, memory_limit: float = 4e9) -> list[str]:
    """Put the small data sets of a config behind ``BatchedDataset``; leave all others on the ordinary loaders.

    Args:
        config (Any): The config; its dataloaders are changed in place.
        memory_limit (float): See :class:`BatchedDataset`.

    Returns:
        list[str]: One line a dataloader: what was done, or why not.
    """
    lines = []
    for field in FIELDS:
        loader = config.get(field)
        if not isinstance(loader, MutableMapping):
            continue
        reason = _obstacle(loader, config.get("default_scope") or "mmpretrain")
        if reason is None:
            inner = loader["dataset"]
            loader["dataset"] = {"type": "mmkdprune.BatchedDataset", "dataset": inner, "memory_limit": memory_limit}
            loader["num_workers"] = 0
            complete_batched_loader(loader, field)
        lines.append(f"{field}: {'batched' if reason is None else f'as it was ({reason})'}")
    return lines


def _obstacle(loader: MutableMapping[str, Any], scope: str) -> str | None:
    """Why a dataloader cannot be batched, or None; without reading the data."""
    from mmpretrain.registry import TRANSFORMS

    from .loading import split_transforms

    dataset = loader.get("dataset")
    if not isinstance(dataset, MutableMapping):
        return "its data set is no config"
    if dataset.get("type") in BATCHED:
        return "batched already"
    inner = dataset
    while isinstance(inner.get("dataset"), MutableMapping):
        wrapper = str(inner.get("type", "")).split(".")[-1]
        if wrapper not in SUBSETS:
            return f"{wrapper} may hold images several times"
        inner = inner["dataset"]
    name = str(inner.get("type", "")).split(".")[-1]
    if name not in SMALL_SETS:
        return (
            f"{name or 'the data set'} is not known to be small; name mmkdprune.BatchedDataset in the config if it is"
        )
    try:
        with DefaultScope.overwrite_default_scope(scope):
            split_transforms([TRANSFORMS.build(dict(settings)) for settings in inner.get("pipeline", [])])
    except Exception as error:  # whatever a transform cannot do here, the ordinary loader may still be able to
        return str(error).removeprefix("BatchedDataset: ").split(". ")[0].splitlines()[0]
    return None
