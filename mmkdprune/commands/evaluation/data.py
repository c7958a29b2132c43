"""The data of an evaluation: by a short name or a config, with the test pipeline for every image."""

import copy
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmkdprune.config.dataloaders import set_dataloader_defaults
from mmkdprune.config.reading import read_config
from mmkdprune.config.shipped import LINEAR, known_data
from mmkdprune.errors import UsageError

from ..missing_data import explained_missing_data


def read_data_config(name: str, kind: str, options: dict[str, Any] | None = None) -> Config:
    """Read the data of an evaluation.

    Args:
        name (str): A short name (:func:`known_data`), or a config with dataloaders: path, or ``package::path``.
        kind (str): ``'linear'`` or ``'few-shot'``.
        options (dict, optional): Overrides, as of ``--cfg-options``.

    Returns:
        Config: With ``train_dataloader`` and ``val_dataloader`` (linear) or ``test_dataloader`` (few-shot).

    Raises:
        UsageError: If there is no such data set or config, or the config has no such dataloaders.
    """
    known = known_data(kind)
    if name not in known and "::" not in name and not Path(name).is_file():
        raise UsageError(f"--data {name}: neither a config nor one of the known data sets: {', '.join(known)}")
    config = read_config(str(known.get(name, name)), options)
    if config.get("val_dataloader") is None and config.get("test_dataloader") is not None:
        config.val_dataloader = copy.deepcopy(config.test_dataloader)
    if config.get("test_dataloader") is None and config.get("val_dataloader") is not None:
        config.test_dataloader = copy.deepcopy(config.val_dataloader)
    needed = ("train_dataloader", "val_dataloader") if kind == LINEAR else ("test_dataloader",)
    absent = [field for field in needed if config.get(field) is None]
    if absent:
        raise UsageError(f"--data {name}: the config has no {' and no '.join(absent)}")
    return config


def build_evaluation_loader(config: Config, field: str) -> DataLoader:
    """Build a dataloader that gives every image once, in order and without augmentation.

    The training set gets the pipeline of the validation (or test) set.

    Args:
        config (Config): Of :func:`read_data_config`; it stays as it is.
        field (str): ``train_dataloader``, ``val_dataloader`` or ``test_dataloader``.

    Returns:
        DataLoader: The loader.

    Raises:
        UsageError: If the data are missing.
    """
    settings = Config(copy.deepcopy(config.to_dict()))
    init_default_scope(settings.get("default_scope") or "mmpretrain")
    reference = settings.get("val_dataloader") or settings.get("test_dataloader")
    loader = settings[field]
    if field == "train_dataloader" and reference is not None:
        pipeline = next(iter(_leaves(reference.dataset))).get("pipeline")
        if pipeline is not None:
            for leaf in _leaves(loader.dataset):
                leaf["pipeline"] = copy.deepcopy(pipeline)
    loader.pop("batch_sampler", None)
    loader.sampler = {"type": "DefaultSampler", "shuffle": False}
    loader.drop_last = False
    settings.setdefault("default_scope", "mmpretrain")
    set_dataloader_defaults(settings, [field], pin_memory=False)
    with explained_missing_data(settings, field):
        return Runner.build_dataloader(settings[field])


def _leaves(dataset: Any) -> list[Any]:
    """Data sets of a config that are no wrappers."""
    inner = [dataset["dataset"]] if "dataset" in dataset else list(dataset.get("datasets", ()))
    return [leaf for part in inner for leaf in _leaves(part)] if inner else [dataset]
