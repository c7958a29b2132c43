"""Wrapping a model for many processes: what must happen before, and what the methods or a CPU cannot train with."""

from collections.abc import Callable
from typing import Any

from torch import nn

from mmkdprune.compat.patching import patch

from .gradient_buckets import remember_layout, to_channels_last

SHARDED = ("FullySharded", "FSDP", "DeepSpeed", "ColossalAI", "DTensor")
# What takes less memory without splitting the parameters.
ADVICE = (
    "train it with MMDistributedDataParallel, one process a GPU: mmkdprune train CONFIG --gpus NUMBER (tools/"
    "slurm_train.sh under Slurm), without runner_type, strategy and model_wrapper_cfg in the config; --amp and "
    "optim_wrapper.accumulative_counts with a smaller batch_size save memory"
)


def patch_wrapping() -> None:
    """Lets runners convert a model before they wrap it, and refuse by name what cannot work.

    That is to split a distillation method over processes, and SyncBN where it has no second derivative.
    """
    from mmengine.runner import FlexibleRunner, Runner

    patch(Runner, "wrap_model", _checked_wrapping)
    patch(FlexibleRunner, "__init__", _checked_strategy)


def _checked_wrapping(original: Callable) -> Callable:
    def wrap_model(self: Any, model_wrapper_cfg: Any, model: Any) -> Any:
        wrapper = _name((model_wrapper_cfg or {}).get("type", ""))
        if any(sign in wrapper for sign in SHARDED) and _method(model):
            raise ValueError(f"{_method(model)} cannot be split over processes by {wrapper}: {ADVICE}")
        if _wants_channels_last(self.cfg):
            to_channels_last(model)
        if not self.distributed:
            return original(self, model_wrapper_cfg, model)
        wanted = self.cfg.get("sync_bn")
        if _is_on_cpu():
            model, wanted = _without_synchronised_norms(model, wanted, self.logger), None
        _check_twice_differentiable(model, wanted)
        before, self.cfg.sync_bn = self.cfg.get("sync_bn"), wanted
        try:
            wrapped = original(self, model_wrapper_cfg, model)
        finally:
            self.cfg.sync_bn = before
        remember_layout(wrapped)
        return wrapped

    return wrap_model


def _wants_channels_last(config: Any) -> bool:
    """Whether the config of a run has the hook for it, which comes when gradient buckets are laid out already."""
    hooks = [*(config.get("custom_hooks") or ()), *(config.get("default_hooks") or {}).values()]
    kinds = [hook.get("type", "") if hasattr(hook, "get") else type(hook) for hook in hooks]
    return any(_name(kind).split(".")[-1] == "ChannelsLastHook" for kind in kinds)


def _checked_strategy(original: Callable) -> Callable:
    def __init__(self: Any, model: Any, *args: Any, **kwargs: Any) -> None:
        if _method(model):
            strategy = kwargs.get("strategy") or {}
            kind = _name(strategy.get("type", "")) if hasattr(strategy, "get") else type(strategy).__name__
            raise ValueError(
                f"{_method(model)} does not train with FlexibleRunner{f' and its {kind}' if kind else ''}: {ADVICE}"
            )
        original(self, model, *args, **kwargs)

    return __init__


def _method(model: Any) -> str | None:
    """The name of a distillation method, given the model or its config; None for any other model."""
    if isinstance(model, nn.Module):
        kind: Any = type(model)
    else:
        kind = model.get("type") if hasattr(model, "get") else None
        if isinstance(kind, str):
            return kind if kind.split(".")[0] == "mmkdprune" else None
    return kind.__name__ if getattr(kind, "trains_whole", False) else None


def _name(kind: Any) -> str:
    return kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))


def _is_on_cpu() -> bool:
    from mmengine.device import get_device

    return get_device() == "cpu"


def _without_synchronised_norms(model: nn.Module, wanted: Any, logger: Any) -> nn.Module:
    """PyTorch and MMCV synchronise BatchNorm on GPUs only; several CPU processes are for trying a config out."""
    from mmengine.model import revert_sync_batchnorm

    found = sum("SyncBatchNorm" in type(module).__name__ for module in model.modules())
    if found or wanted:
        what = f"{found} SyncBN layers" if found else f"sync_bn={wanted!r}"
        logger.warning(
            f"{what}: SyncBN needs GPUs, and this is a CPU. Ordinary BatchNorm takes its place: each process "
            "normalises with the statistics of its own images."
        )
    return revert_sync_batchnorm(model) if found else model


def _check_twice_differentiable(model: nn.Module, wanted: Any) -> None:
    """Raise ``ValueError`` if L-MCL's meta step would meet a layer whose backward pass has no derivative."""
    synchronised = wanted or any("SyncBatchNorm" in type(module).__name__ for module in model.modules())
    if getattr(model, "meta_interval", 0) and synchronised:
        raise ValueError(
            f"{type(model).__name__} differentiates its training steps twice, which PyTorch cannot for SyncBN: train "
            "without sync_bn (norm_cfg type 'BN'), or with meta_interval=0, which leaves the weight network as it is"
        )
