"""The recipe of a training run, and its hash: equal if and only if two runs differ in nothing but their seed."""

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmengine.config import Config

from mmkdprune.config.comparison import comparable_settings
from mmkdprune.engine.hooks import FilterPruningHook
from mmkdprune.engine.pruning.builder import PrunerBuilder
from mmkdprune.pruning import FilterPruner
from mmkdprune.pruning.schedules.position import describe
from mmkdprune.registry import HOOKS

# Top-level fields that decide the figures, beside those that decide the weights.
ALSO_HASHED = ("data_preprocessor", "speed", "compile", "val_evaluator", "val_cfg")
PRUNING_HOOKS = ("FilterPruningHook", "mmkdprune.FilterPruningHook")
# Settings whose defaults decide the result. A setting that is added to the package later is hashed where a config names
# it: stored results stay valid, since they were made without it.
HOOK_SETTINGS = ("interval", "warmup", "finetune", "prune_at_start", "recalibrate_bn")
PRUNER_SETTINGS = (
    "rate",
    "rate_schedule",
    "decay_schedule",
    "hard_schedule",
    "bn_policy",
    "freeze",
    "sticky",
    "criterion",
    "coupling",
    "ranking",
    "pattern",
    "include",
    "exclude",
    "rate_map",
    "prune_first",
    "prune_last",
    "prune_downsample",
    "min_keep",
    "round_to",
)
# What a class got after results of it were stored: hashed where a config names it, too.
ADDED_LATER = {FilterPruner: ("ranking",)}
SCHEDULE_POINTS = 100  # of an iteration-based run, whose prune steps depend on its data
DIGITS = 9  # of a schedule's values: the last ones differ between machines


def recipe_hash(settings: Config, needed: Mapping[str, str] | None = None) -> str:
    """Hash what determines a run's result: network, data, schedule, hooks, pruner, precision, test; not its seed.

    Args:
        settings: The whole config.
        needed: Hashes of the recipes of the networks that the run starts or learns from, by field.

    Returns:
        16 hexadecimal digits.
    """
    text = json.dumps({**recipe(settings), **({"needed": dict(needed)} if needed else {})}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def recipe(settings: Config) -> dict[str, Any]:
    """Collect what :func:`recipe_hash` hashes, in plain types; defaults of the pruner are filled in."""
    steps = settings.train_cfg.get("max_epochs") or SCHEDULE_POINTS
    plain = comparable_settings(settings, leave_out=("randomness",))
    plain |= {name: settings[name] for name in ALSO_HASHED if name in settings}
    plain["custom_hooks"] = [resolved_hook(hook, steps) for hook in plain.get("custom_hooks") or []]
    plain["default_hooks"] = {
        name: resolved_hook(hook, steps)
        for name, hook in (settings.get("default_hooks") or {}).items()
        if is_ours(hook)
    }
    plain["tested_on"] = comparable_settings(Config({"train_dataloader": settings.val_dataloader}))
    plain["precision"] = [settings.optim_wrapper.get(name) for name in ("type", "dtype")]
    plain["deterministic"] = (settings.get("randomness") or {}).get("deterministic", False)
    return plain


def is_ours(hook: Any) -> bool:
    """Tell whether the config of a hook names one of this package."""
    name = hook.get("type") if isinstance(hook, Mapping) else None
    return isinstance(name, str) and (name.startswith("mmkdprune.") or name in HOOKS.module_dict)


def resolved_hook(hook: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """Return the config of a hook; that of a pruning hook with the settings that it stands for."""
    settings = dict(hook)
    if settings.get("type") not in PRUNING_HOOKS:
        return settings
    settings = {**_defaults(FilterPruningHook, HOOK_SETTINGS), **settings}
    return {**settings, "type": PRUNING_HOOKS[0], "pruner": resolved_pruner(settings["pruner"], steps)}


def resolved_pruner(config: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """Return all settings of a pruner: the method's, the config's and the defaults; schedules as their values.

    Args:
        config: The config of the pruner.
        steps: Length of the schedules.

    Returns:
        Settings in plain types.
    """
    builder = PrunerBuilder(config)
    names = [name for name in PRUNER_SETTINGS if name not in ADDED_LATER.get(builder.kind, ())]
    settings = {**_defaults(builder.kind, names), **builder.arguments}
    kind = getattr(builder.kind, "__name__", str(builder.kind))
    return {"type": kind, "method": builder.method, **{name: _plain(name, settings[name], steps) for name in settings}}


def _defaults(kind: Callable[..., Any], names: Sequence[str]) -> dict[str, Any]:
    parameters = inspect.signature(kind).parameters
    chosen = {name: parameters[name].default for name in names if name in parameters}
    return {name: value for name, value in chosen.items() if value is not inspect.Parameter.empty}


def _plain(name: str, value: Any, steps: int) -> Any:
    if name.endswith("_schedule") and callable(value):
        return [round(float(value(step, steps)), DIGITS) for step in range(steps)]
    return describe(value)
