"""The ``speed`` field of a config: switches that are rewritten into ordinary OpenMMLab settings.

``speed`` is a key of its own, since MMEngine refuses ``_base_`` lists whose files share one. The settings it stands for
are written into the config before the runner is built, so that the config in the work dir shows what really ran.
"""

import importlib.util
import os
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, NamedTuple

import torch
from mmengine.device import get_device
from mmengine.registry import OPTIMIZERS

from mmkdprune.compat.versions import release
from mmkdprune.config.hooks import hook_name

from .compilation import compile_options

# What configs/_base_/speed.py and mmkdprune train --speed turn on.
DEFAULTS: dict[str, Any] = {
    "channels_last": True,
    "amp": "auto",
    "fused_optimizer": True,
    "deferred_logging": True,
    "cudnn_benchmark": True,
    "tf32": True,
    "batched_data": True,
    "keep_memory": True,
    "compile": False,
}
# Speed-ups that are hooks of a run.
SPEED_HOOKS = {"channels_last": "ChannelsLastHook", "tf32": "TF32Hook", "keep_memory": "KeepMemoryHook"}
AMP_CHOICES = (False, "auto", "bfloat16", "float16")
# PyTorch's first release with a fused form of each optimizer.
FUSED_SINCE: dict[str, dict[str, str]] = {
    "cuda": {"Adam": "2.0", "AdamW": "2.0", "SGD": "2.3"},
    "cpu": {"Adam": "2.4", "AdamW": "2.4", "SGD": "2.4", "Adagrad": "2.4"},
}


class SpeedError(ValueError):
    """A ``speed`` field that asks for what does not exist, or cannot work on this machine."""


class _Context(NamedTuple):
    device: str
    training: bool


def use_default_speed(config: Any) -> None:
    """Turn the switches of ``configs/_base_/speed.py`` on; those that the config's own ``speed`` names stay.

    Args:
        config (Config | dict): Changed in place. Its ``speed=False`` gives way.
    """
    given = config.get("speed")
    if not (given is None or given is False or isinstance(given, Mapping)):
        raise _no_switches(given)
    config["speed"] = {**DEFAULTS, **(given or {})}


def choose_speed(config: Any, wish: bool | None) -> None:
    """Write what a command line asks for into the ``speed`` field.

    Args:
        config (Config | dict): Changed in place.
        wish (bool, optional): True for the switches of ``configs/_base_/speed.py``, False for none of them, also none
            that the config has; None leaves the field as it is.
    """
    if wish:
        use_default_speed(config)
    elif wish is not None:
        config["speed"] = False


def apply_speed(config: Any, training: bool = True) -> list[str]:
    """Rewrite the ``speed`` field into ordinary settings; a config without the field is left as it is.

    A switch that ``speed`` does not name is off. What the config says itself is kept where the two contradict, or
    replaced and reported; the returned lines tell which. ``speed=False`` also takes away what the config has without
    the field: the hooks that make training faster, and the fused optimizer.

    Args:
        config (Config | dict): Changed in place; its ``speed`` is gone afterwards.
        training (bool): False leaves the switches alone that only training knows. Defaults to True.

    Returns:
        list[str]: One line a switch for the log: what was turned on, or left off and why.

    Raises:
        SpeedError: If a switch is unknown or has a value that it does not know, or ``speed.amp`` names a type that
            this machine cannot compute with.
    """
    if config.get("speed") is None:
        return []
    if config["speed"] is False:
        config.pop("speed")
        return _take_away(config)
    switches = _check(config["speed"])
    config.pop("speed")
    context = _Context(get_device(), training)
    lines = []
    for name, (function, in_tests) in _SWITCHES.items():
        if not (training or in_tests):
            continue
        value = switches.get(name, False)
        result = "off (not asked for)" if value is False else function(config, value, context)
        lines += [f"speed.{name}: {text}" for text in ([result] if isinstance(result, str) else result)]
    if training and config.get("find_unused_parameters"):
        lines.append(
            "speed: find_unused_parameters=True stays as the config has it, which costs a walk over the graph at every "
            "step of a distributed run; no method of mmkdprune needs it"
        )
    return lines


def _take_away(config: Any) -> list[str]:
    """Remove the speed-ups of a config that change no more than rounding; precision is no matter of speed alone."""
    hooks = config.get("default_hooks") or {}
    for name in SPEED_HOOKS.values():
        if any(hook_name(hook) == name for hook in config.get("custom_hooks") or []):
            config["custom_hooks"] = [hook for hook in config["custom_hooks"] if hook_name(hook) != name]
        for key in [key for key, hook in hooks.items() if hook_name(hook) == name]:
            hooks.pop(key)
    if hook_name(hooks.get("runtime_info")) == "DeferredRuntimeInfoHook":
        hooks["runtime_info"] = {"type": "RuntimeInfoHook"}
    optimizer = (config.get("optim_wrapper") or {}).get("optimizer")
    if isinstance(optimizer, MutableMapping):
        optimizer.pop("fused", None)
    return [f"speed.{switch}: off (speed=False)" for switch in (*SPEED_HOOKS, "fused_optimizer", "deferred_logging")]


def _no_switches(speed: Any) -> SpeedError:
    return SpeedError(f"speed must be a dict of switches ({', '.join(DEFAULTS)}) or False, got {speed!r}")


def _check(speed: Any) -> dict[str, Any]:
    if not isinstance(speed, Mapping):
        raise _no_switches(speed)
    unknown = sorted(set(speed) - set(DEFAULTS))
    if unknown:
        raise SpeedError(f"speed has unknown switch(es) {unknown}; known: {', '.join(DEFAULTS)}")
    for name, value in speed.items():
        if name == "amp":
            if not any(value is choice or (isinstance(value, str) and value == choice) for choice in AMP_CHOICES):
                raise SpeedError(f"speed.amp must be one of {', '.join(map(repr, AMP_CHOICES))}, got {value!r}")
        elif name == "compile":
            try:
                compile_options(value)
            except ValueError as error:
                raise SpeedError(f"speed.{error}") from None
        elif not isinstance(value, bool):
            raise SpeedError(f"speed.{name} must be True or False, got {value!r}")
    return dict(speed)


def _field(config: Any, name: str) -> MutableMapping:
    """A dict of the config, made where there is none."""
    if config.get(name) is None:
        config[name] = {}
    return config[name]


def _add_hook(config: Any, key: str, name: str) -> str:
    hooks = [*(config.get("custom_hooks") or []), *(config.get("default_hooks") or {}).values()]
    if name in map(hook_name, hooks):
        return f"on ({name} is in the config already)"
    _field(config, "default_hooks")[key] = {"type": f"mmkdprune.{name}"}
    return f"on ({name})"


def _channels_last(config: Any, value: bool, context: _Context) -> str:
    return _add_hook(config, "channels_last", SPEED_HOOKS["channels_last"])


def _amp(config: Any, value: str, context: _Context) -> str:
    wrapper = config.get("optim_wrapper")
    if wrapper is None:
        return "off (the config has no optim_wrapper)"
    kind = str(wrapper.get("type", "OptimWrapper")).split(".")[-1]
    if kind == "AmpOptimWrapper":
        return f"on (the config's AmpOptimWrapper stays, dtype={wrapper.get('dtype')!r})"
    if kind != "OptimWrapper":
        return f"off (the config's {kind} stays)"
    dtype, reason = _amp_dtype(value, context.device)
    if dtype is None:
        return f"off ({reason})"
    wrapper["type"], wrapper["dtype"] = "AmpOptimWrapper", dtype
    # bfloat16 has the range of float32; a scaler would only ask the device at every step whether there was an overflow.
    wrapper["loss_scale"] = {"enabled": False} if dtype == "bfloat16" else "dynamic"
    return f"on ({dtype}{', dynamic loss scale' if dtype == 'float16' else ''})"


def _amp_dtype(wanted: str, device: str) -> tuple[str | None, str]:
    """Choose the type of mixed precision, or tell why there is none."""
    if device != "cuda":
        if wanted != "auto":
            raise SpeedError(
                f"speed.amp={wanted!r} needs a CUDA GPU and none is visible: set speed.amp='auto', which leaves it off "
                "where there is none, or speed.amp=False"
            )
        return None, "no CUDA GPU"
    major, name = _capability()
    if wanted == "bfloat16" and major < 8:
        raise SpeedError(f"speed.amp='bfloat16': {name} does not compute in bfloat16: set speed.amp='float16'")
    if wanted != "auto":
        return wanted, ""
    if major >= 8:
        return "bfloat16", ""
    return ("float16", "") if major >= 7 else (None, f"{name} has no tensor cores")


def _capability() -> tuple[int, str]:
    index = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
    if torch.version.hip is not None:  # AMD counts otherwise; all that PyTorch supports have both half types
        return 8, torch.cuda.get_device_name(index)
    return torch.cuda.get_device_capability(index)[0], torch.cuda.get_device_name(index)


def _fused_optimizer(config: Any, value: bool, context: _Context) -> str:
    optimizer = (config.get("optim_wrapper") or {}).get("optimizer")
    if not isinstance(optimizer, Mapping) or "type" not in optimizer:
        return "off (the config's optim_wrapper holds no single optimizer)"
    if optimizer.get("fused") is not None:
        return f"{'on' if optimizer['fused'] else 'off'} (the config's optimizer.fused={optimizer['fused']} stays)"
    clash = [name for name in ("foreach", "differentiable") if optimizer.get(name)]
    if clash:
        return f"off (the config's optimizer.{clash[0]}=True stays, and PyTorch refuses both)"
    kind = optimizer["type"]
    found = OPTIMIZERS.get(kind) if isinstance(kind, str) else kind
    name = getattr(found, "__name__", str(kind))
    since = FUSED_SINCE.get(context.device, {}).get(name) if found is getattr(torch.optim, name, None) else None
    if since is None:
        return f"off ({name} has no fused form on {context.device})"
    if release(torch.__version__) < release(since):
        return f"off (PyTorch {torch.__version__} has no fused {name} on {context.device}, {since} has)"
    optimizer["fused"] = True  # type: ignore[index]
    return f"on ({name})"


def _deferred_logging(config: Any, value: bool, context: _Context) -> str:
    hooks = _field(config, "default_hooks")
    hook = hooks.get("runtime_info", {"type": "RuntimeInfoHook"})
    if hook_name(hook) == "DeferredRuntimeInfoHook":
        return "on (DeferredRuntimeInfoHook is in the config already)"
    if hook is None or hook.get("type") != "RuntimeInfoHook":
        return f"off (the config's default_hooks.runtime_info={hook!r} stays)"
    hooks["runtime_info"] = {"type": "mmkdprune.DeferredRuntimeInfoHook"}
    return "on (DeferredRuntimeInfoHook)"


def _cudnn_benchmark(config: Any, value: bool, context: _Context) -> str:
    if context.device != "cuda":
        return "off (no CUDA GPU)"
    if (config.get("randomness") or {}).get("deterministic"):
        return "off (randomness.deterministic=True)"
    if config.get("env_cfg") is None:
        config["env_cfg"] = {"dist_cfg": {"backend": "nccl"}}  # what MMEngine takes without the field
    before = config["env_cfg"].get("cudnn_benchmark")
    config["env_cfg"]["cudnn_benchmark"] = True
    return "on" + (" (env_cfg.cudnn_benchmark was False)" if before is False else "")


def _tf32(config: Any, value: bool, context: _Context) -> str:
    if context.device != "cuda":
        return "off (no CUDA GPU)"
    major, name = _capability()
    if major < 8:
        return f"off ({name} has no TF32)"
    return _add_hook(config, "tf32", SPEED_HOOKS["tf32"])


def _batched_data(config: Any, value: bool, context: _Context) -> list[str] | str:
    if importlib.util.find_spec("mmpretrain") is None:
        return "off (it is for MMPretrain's data sets, and MMPretrain is not installed)"
    from mmkdprune.datasets.batched import use_batched_loaders

    return use_batched_loaders(config)


def _keep_memory(config: Any, value: bool, context: _Context) -> str:
    if context.device != "cpu":
        return f"off (PyTorch keeps memory itself on {context.device})"
    return _add_hook(config, "keep_memory", SPEED_HOOKS["keep_memory"])


def _compile(config: Any, value: bool | Mapping, context: _Context) -> str:
    before = config.get("compile")
    if before:
        return f"on (the config's compile={before!r} stays)"
    config["compile"] = value if value is True else dict(value)  # type: ignore[arg-type]
    return f"on ({'torch.compile with its defaults' if value is True else dict(value)})"  # type: ignore[arg-type]


# Each with whether it also matters when a network is only tested.
_SWITCHES: dict[str, tuple[Callable[[Any, Any, _Context], str | list[str]], bool]] = {
    "channels_last": (_channels_last, True),
    "amp": (_amp, False),
    "fused_optimizer": (_fused_optimizer, False),
    "deferred_logging": (_deferred_logging, False),
    "cudnn_benchmark": (_cudnn_benchmark, True),
    "tf32": (_tf32, True),
    "batched_data": (_batched_data, True),
    "keep_memory": (_keep_memory, False),
    "compile": (_compile, False),
}
