"""Turn the dataloaders of a config into batched ones."""

from collections.abc import MutableMapping
from typing import Any

from mmengine.registry import DefaultScope

from mmkdprune.config.dataloaders import complete_batched_loader, is_batched

# Wrappers that choose images; others repeat them.
SUBSETS = ("StratifiedSubset", "ClassSubset", "ClassSplit")
# Data sets of small images.
SMALL_SETS = ("CIFAR10", "CIFAR100", "Digits", "MNIST", "FashionMNIST", "Omniglot", "STL10", "TinyImageNet")
FIELDS = ("train_dataloader", "val_dataloader", "test_dataloader")


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
    if is_batched(dataset):
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
