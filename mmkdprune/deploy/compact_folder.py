"""From the checkpoint of a pruned run to a folder with the compact network, ready to be used in any config."""

import copy
import glob
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import nn

from mmkdprune.checkpoint.atomic import atomic_folder
from mmkdprune.checkpoint.keys import misfits, report_loaded_keys
from mmkdprune.checkpoint.loading import load_checkpoint_file
from mmkdprune.config.hooks import PRUNING_HOOK, hook_name
from mmkdprune.errors import UsageError
from mmkdprune.pruning import CompactionError, Plan, compact
from mmkdprune.pruning.modes import set_evaluation
from mmkdprune.version import __version__

from .export import saved_bytes
from .filling import fill
from .network import (
    COMPACT_TYPE,
    Weights,
    build_network,
    part_of,
    plain_classifier,
    pruned_image_shape,
    scoped_type,
    select_weights,
)
from .snippets import backbone_assignments
from .widths import TASK_HEADS, feature_channels, set_inputs

CHECKPOINT, PLAN, CONFIG = "compact.pth", "plan.json", "config.py"
# Replaced by the folder of the config when MMEngine reads it: the folder may be moved.
_HERE = "{{ fileDirname }}"


@dataclass
class PrunedNetwork:
    """The deployable network of a pruned run.

    Attributes:
        network: With the weights, in evaluation mode.
        model: Its config, without initialisation.
        scope: Scope of the names in the run's config.
        image_shape: (C, H, W).
        source: Name of the checkpoint's file.
    """

    network: nn.Module
    model: dict[str, Any]
    scope: str
    image_shape: tuple[int, int, int]
    source: str


@dataclass
class CompactNetwork:
    """A compact network and the config that builds it.

    Attributes:
        network: The network.
        plan: What was kept.
        model: Config, with the plan in it.
    """

    network: nn.Module
    plan: Plan
    model: dict[str, Any]


def load_pruned(
    config: Config, checkpoint: Path, weights: Weights = "saved", image_size: tuple[int, int] | None = None
) -> PrunedNetwork:
    """Build the deployable network of a config and load a checkpoint of it.

    Args:
        config: The run's; of a classifier, an algorithm of this package, a detector or a segmentor.
        checkpoint: A checkpoint of the run, or an exported classifier.
        weights: As for :func:`~mmkdprune.deploy.export.export_checkpoint`.
        image_size: Height and width. Defaults to those that the run pruned with, or 224.

    Raises:
        ExportError: If the weights do not fit the network.
    """
    content = load_checkpoint_file(checkpoint, map_location="cpu")
    settings, scope = config.to_dict(), config.get("default_scope") or "mmpretrain"
    if any(name in config.model for name in TASK_HEADS):
        model = _without_initialisation(settings["model"])
        network = build_network(model, scope)
    else:
        model = plain_classifier(settings, "classifier", scope)
        network = build_network(model)
    parts = {part_of(key) for key in network.state_dict()}
    state = {key: value for key, value in select_weights(content, weights).items() if part_of(key) in parts}
    fill(network, state, checkpoint, "this config's network")
    known = pruned_image_shape(content)
    channels = int(known[0]) if known else 3
    size = image_size or (tuple(known[1:]) if known else (224, 224))
    set_evaluation(network)
    return PrunedNetwork(network, model, scope, (channels, int(size[0]), int(size[1])), checkpoint.name)


def compact_network(
    pruned: PrunedNetwork, divisor: int = 1, scatter: bool = False, check: bool = True
) -> CompactNetwork:
    """Compact a network and prove that its config rebuilds it.

    Raises:
        CompactionError: See :func:`mmkdprune.pruning.compact`; or if no config can express the result.
    """
    if "backbone" not in dict(pruned.network.named_children()):
        raise CompactionError(
            f"{type(pruned.network).__name__} has no backbone, so no config could name the compact one: call "
            "mmkdprune.pruning.compact and apply_plan in your own code"
        )
    small, plan = compact(pruned.network, pruned.image_shape, check=check, divisor=divisor, scatter=scatter)
    channels = feature_channels(small.get_submodule("backbone"), pruned.image_shape)
    model = copy.deepcopy(pruned.model)
    dense = {key: value for key, value in model["backbone"].items() if key not in ("init_cfg", "pretrained")}
    dense["type"] = scoped_type(dense["type"], pruned.scope)
    if plan.part("backbone").layers:
        model["backbone"] = {"type": COMPACT_TYPE, "backbone": dense, "plan": plan.to_dict()}
    set_inputs(model, channels)
    _prove(model, small, pruned.scope)
    return CompactNetwork(small, plan, model)


def _prove(model: Mapping[str, Any], small: nn.Module, scope: str) -> None:
    rebuilt = build_network(model, scope)
    report = report_loaded_keys(rebuilt.state_dict(), small.state_dict())
    if misfits(report):
        raise CompactionError(
            f"neck and heads cannot be built for the compact backbone by their in_channels: {report.line()}. Leave "
            "what they read out with exclude when pruning, or use mmkdprune.pruning.compact in your own code"
        )


def write_folder(
    folder: Path, config: Config, pruned: PrunedNetwork, result: CompactNetwork, files: Mapping[str, bytes]
) -> None:
    """Write checkpoint, plan, config and further files, all or nothing.

    Args:
        folder: Does not exist, or is empty.
        config: The run's.
        pruned: The network before.
        result: The network after.
        files: Contents by name, of a report for example.

    Raises:
        UsageError: If the folder holds something already.
    """
    refuse_folder(folder)
    _remove_leftovers_of_old(folder)
    with atomic_folder(folder) as temporary:
        (temporary / CHECKPOINT).write_bytes(checkpoint_bytes(pruned, result))
        (temporary / PLAN).write_text(result.plan.dumps(), encoding="utf-8")
        (temporary / CONFIG).write_text(config_text(config, result), encoding="utf-8")
        for name, content in files.items():
            (temporary / name).write_bytes(content)


def _remove_leftovers_of_old(folder: Path) -> None:
    """Remove what killed calls of earlier versions have left: folders without a name of their own kind."""
    ours = {CHECKPOINT, PLAN, CONFIG, "report.md", "report.json", "report.png"}
    for path in folder.parent.glob(f".{glob.escape(folder.name)}.????????"):
        if path.is_dir() and not path.is_symlink() and {file.name for file in path.iterdir()} <= ours:
            shutil.rmtree(path, ignore_errors=True)


def refuse_folder(folder: Path) -> None:
    """Raise ``UsageError`` if a folder holds something already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists already and is not empty: give another --out, or remove it")


def checkpoint_bytes(pruned: PrunedNetwork, result: CompactNetwork) -> bytes:
    """The compact checkpoint: weights, and in ``meta`` the config with the plan, all of plain types."""
    meta = {
        "mmkdprune_version": __version__,
        "source": pruned.source,
        "part": "classifier",
        "weights": "saved",
        "image_shape": list(pruned.image_shape),
        "model": result.model,
    }
    return saved_bytes({"meta": meta, "state_dict": result.network.state_dict()})


def config_text(config: Config, result: CompactNetwork) -> str:
    """A config like the run's own, of the compact network, without pruning and with the compact weights."""
    settings = config.to_dict()
    model = copy.deepcopy(result.model)
    if result.model["backbone"].get("type") == COMPACT_TYPE:
        model["backbone"]["plan"] = f"{_HERE}/{PLAN}"
    for name in ("train_cfg", "test_cfg"):
        if name in settings["model"] and name not in model and model["type"] != "mmpretrain.ImageClassifier":
            model[name] = settings["model"][name]
    settings["model"] = model
    settings["load_from"], settings["resume"] = f"{_HERE}/{CHECKPOINT}", False
    settings.pop("work_dir", None)
    settings["custom_hooks"] = [hook for hook in settings.get("custom_hooks") or () if hook_name(hook) != PRUNING_HOOK]
    if settings.get("default_hooks"):
        hooks = settings["default_hooks"].items()
        settings["default_hooks"] = {name: hook for name, hook in hooks if hook_name(hook) != PRUNING_HOOK}
    return (
        "# Fine-tunes and tests the compact network: mmkdprune train and mmkdprune test with this config.\n"
        "# Weights and plan are looked for beside this file.\n" + _quoted_safely(Config(settings).pretty_text)
    )


def _quoted_safely(text: str) -> str:
    """MMEngine puts the folder's name into the text as it is, and names may hold quotation marks."""
    return re.sub(rf"""(['"])({re.escape(_HERE)}/[\w.]+)\1""", r'"""\2"""', text)


def snippets(result: CompactNetwork, pruned: PrunedNetwork, folder: Path) -> dict[str, str]:
    """Config lines that use the compact backbone elsewhere, by package."""
    return backbone_assignments(
        result.model["backbone"], folder.resolve() / CHECKPOINT, result.network.get_submodule("backbone")
    )


def _without_initialisation(settings: Any) -> Any:
    """The same config without files that it would be initialised from."""
    if isinstance(settings, Mapping):
        return {
            key: _without_initialisation(value)
            for key, value in settings.items()
            if not (key == "pretrained" or (key == "init_cfg" and _loads(value)))
        }
    if isinstance(settings, list | tuple):
        return type(settings)(_without_initialisation(value) for value in settings)
    return settings


def _loads(init_cfg: Any) -> bool:
    configs = init_cfg if isinstance(init_cfg, list | tuple) else [init_cfg]
    return any(isinstance(item, Mapping) and item.get("type") == "Pretrained" for item in configs)
