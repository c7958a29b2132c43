"""The config of a linear probe for the backbone of any checkpoint."""

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from mmkdprune.config.shipped import configs_folder
from mmkdprune.deploy.backbone import PREFIX, EvaluatedBackbone
from mmkdprune.deploy.export import write_export
from mmkdprune.errors import UsageError
from mmkdprune.evaluation.features import frozen, make_preprocessor, pool_features, read_target, run_backbone
from mmkdprune.version import __version__

from .data import build_evaluation_loader

# Of a config that has data only.
DEFAULTS = ("_base_/default_runtime.py", "_base_/schedules/linear_100e.py")


def complete_probe_config(
    data: Config, network: EvaluatedBackbone, preprocessor: dict[str, Any], work_dir: Path
) -> Config:
    """Put the backbone of a checkpoint, frozen, under a new linear head into a config.

    The backbone is written to the work dir, whence the run loads it.

    Args:
        data (Config): With dataloaders; schedule and runtime settings of its own stay.
        network (EvaluatedBackbone): Whose backbone is probed.
        preprocessor (dict): Normalisation of the images.
        work_dir (Path): Of the run.

    Returns:
        Config: Ready for MMEngine's runner.

    Raises:
        UsageError: If the data set does not name its classes.
    """
    config = Config()
    for name in DEFAULTS:
        config.merge_from_dict(Config.fromfile(configs_folder() / name).to_dict())
    if data.get("param_scheduler") is not None or data.get("optim_wrapper") is not None:
        for name in ("param_scheduler", "optim_wrapper", "train_cfg"):
            config.pop(name, None)
    config.merge_from_dict(data.to_dict())
    channels, is_map, classes = _look_at_data(data, network, preprocessor)
    if classes is None:
        raise UsageError("the data set of the probe does not name its classes (metainfo['classes']): add them")
    state = {f"{PREFIX}{key}": value.clone() for key, value in network.backbone.state_dict().items()}
    meta = {"mmkdprune_version": __version__, "model": {"backbone": network.settings}, **network.describe()}
    file = write_export({"meta": meta, "state_dict": state}, work_dir / "backbone", overwrite=True)
    settings = {**network.settings, "init_cfg": {"type": "Pretrained", "checkpoint": str(file), "prefix": PREFIX}}
    if "plan" in settings:  # of a compact backbone; it cannot be part of a config's text
        settings["plan"] = str(file)
    config.model = {
        "type": "mmkdprune.LinearProbe",
        "backbone": settings,
        "neck": {"type": "GlobalAveragePooling"} if is_map else None,
        "head": {"type": "LinearClsHead", "num_classes": classes, "in_channels": channels},
    }
    config.data_preprocessor = {**preprocessor, "num_classes": classes}
    config.load_from, config.resume = None, False
    return config


def _look_at_data(
    data: Config, network: EvaluatedBackbone, preprocessor: dict[str, Any]
) -> tuple[int, bool, int | None]:
    """Channels of the features, whether they are maps, and the number of classes, by means of the first images."""
    loader = build_evaluation_loader(data, "val_dataloader")
    batch = make_preprocessor(preprocessor)(next(iter(loader)), False)
    read_target(batch.get("data_samples"), type(loader.dataset).__name__)
    device = next((parameter.device for parameter in network.backbone.parameters()), torch.device("cpu"))
    with frozen(network.backbone):
        outputs = run_backbone(network.backbone, batch["inputs"][:2].to(device), type(loader.dataset).__name__)
    last = outputs[-1] if isinstance(outputs, tuple | list) else outputs
    classes = (getattr(loader.dataset, "metainfo", None) or {}).get("classes")
    return pool_features(outputs).shape[1], last.ndim == 4, None if classes is None else len(classes)
