"""What in a config determines the result of a run, to tell whether two runs are the same."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from mmengine.config import Config

from .hooks import PRUNING_HOOK, hook_name

# Top-level fields that determine the result: network, data, schedule, hooks, seed.
COMPARED = (
    *("model", "optim_wrapper", "param_scheduler", "train_cfg", "randomness", "custom_hooks", "train_dataloader"),
    "default_hooks",  # only those that prune
)
# What in them does not: places of files, what changes only the speed, and what the tool or a runner adds by itself.
# A * stands for any part of a path; the path of an element of a list ends with its type.
LEFT_OUT = (
    "*.data_root",
    "model.teacher.checkpoint",
    "model.pretrained.checkpoint",
    "model.data_preprocessor",
    "optim_wrapper.type",
    "optim_wrapper.loss_scale",
    "optim_wrapper.dtype",
    "optim_wrapper.optimizer.fused",
    "custom_hooks.mmkdprune.CheckClassesHook",
    "custom_hooks.mmkdprune.CheckBatchSizeHook",
    "train_dataloader.collate_fn",
    "train_dataloader.num_workers",
    "train_dataloader.persistent_workers",
    "train_dataloader.pin_memory",
    "train_dataloader.prefetch_factor",
)


def comparable_settings(config: Config | Mapping[str, Any], leave_out: Sequence[str] = ()) -> dict[str, Any]:
    """Collect what determines the result of a run.

    Args:
        config: The config of the run.
        leave_out: Top-level fields not to collect.

    Returns:
        Lists, dicts and plain values of the fields ``COMPARED``, without ``LEFT_OUT``.
    """
    wanted = {name: config[name] for name in COMPARED if name in config and name not in leave_out}
    hooks = (wanted.pop("default_hooks", None) or {}).items()
    if pruning := {name: hook for name, hook in hooks if hook_name(hook) == PRUNING_HOOK}:
        wanted["default_hooks"] = pruning
    return {name: _without(json.loads(json.dumps(value, default=str)), name) for name, value in wanted.items()}


def settings_hash(config: Config) -> str:
    """Hash what determines the result of a run, its seed and its fields ``speed`` and ``prune`` included.

    Args:
        config: The config as the run was asked for: nothing of it rewritten for the machine yet.

    Returns:
        16 hexadecimal digits.
    """
    text = json.dumps(
        [comparable_settings(config), config.get("speed"), config.get("prune")], sort_keys=True, default=str
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def first_difference(found: Config | Mapping[str, Any], wanted: Config | Mapping[str, Any]) -> str:
    """Compare settings that determine the results of two runs.

    Args:
        found: The config of a run that is there.
        wanted: That of the run that is asked for.

    Returns:
        The first path where they differ, with both values; empty if nothing differs.
    """
    theirs, ours = comparable_settings(found), comparable_settings(wanted)
    # A field that is absent is one without content.
    differences = (_difference(theirs.get(name) or None, ours.get(name) or None, name) for name in COMPARED)
    return next(filter(None, differences), "")


def _difference(found: Any, wanted: Any, path: str) -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = dict.fromkeys((*found, *wanted))
        differences = (_difference(found.get(key), wanted.get(key), f"{path}.{key}") for key in keys)
        return next(filter(None, differences), "")
    return "" if found == wanted else f"{path}: {found!r} there, {wanted!r} here"


def _without(value: Any, path: str) -> Any:
    """Plain settings without ``LEFT_OUT``."""
    if isinstance(value, dict):
        return {key: _without(item, f"{path}.{key}") for key, item in value.items() if _counts(f"{path}.{key}")}
    if isinstance(value, list):
        paths = [f"{path}.{item.get('type')}" if isinstance(item, dict) else path for item in value]
        return [_without(item, place) for item, place in zip(value, paths, strict=True) if _counts(place)]
    return value


def _counts(path: str) -> bool:
    return not any(fnmatchcase(path, pattern) for pattern in LEFT_OUT)
