"""Compare the optimizer of a checkpoint with that of the run that resumes from it."""

from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer

from mmkdprune.compat.patching import patch

# Settings that most optimizers have, that say how fast they compute, or that schedulers add.
_COMMON = {"params", "lr", "weight_decay", "momentum", "initial_lr", "base_lr", "param_names", "foreach", "fused"}
_COMMON |= {"maximize", "capturable", "differentiable", "decoupled_weight_decay"}
_ADVICE = (
    "set optim_wrapper.optimizer as it was, or start a new run from the weights alone (load_from=... without --resume)"
)


class OptimizerMismatchError(ValueError):
    """A checkpoint holds the state of another optimizer than the one that is to go on from it."""


def check_optimizer_state(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Refuse the state of another optimizer, or of one with other parameters.

    PyTorch takes over the settings of any optimizer and fails at the first step, by the name of a missing entry.

    Args:
        optimizer (Optimizer): That of the run.
        state (Mapping[str, Any]): Its part of the checkpoint.

    Raises:
        OptimizerMismatchError: If the state is not one of this optimizer.
    """
    kind = type(optimizer).__name__
    groups = state.get("param_groups") if isinstance(state, Mapping) else None
    if not groups:
        raise OptimizerMismatchError(
            f"the checkpoint holds no state of an optimizer that {kind} could go on with: {_ADVICE}"
        )
    absent = sorted(optimizer.defaults.keys() - groups[0].keys() - _COMMON)
    surplus = sorted(groups[0].keys() - optimizer.param_groups[0].keys() - _COMMON)
    differs = [f"lacks its {', '.join(absent)}"] if absent else []
    differs += [f"has {', '.join(surplus)} instead" if absent else f"also has {', '.join(surplus)}"] if surplus else []
    saved, own = (one[0].get("decoupled_weight_decay") for one in (groups, optimizer.param_groups))
    if None not in (saved, own) and saved != own:  # all that tells Adam from AdamW
        differs.append(f"has decoupled_weight_decay={saved}")
    if differs:
        raise OptimizerMismatchError(
            f"the checkpoint was saved with another optimizer than {kind}: its state {' and '.join(differs)}. To "
            f"resume, {_ADVICE}"
        )
    sizes, ours = ([len(group["params"]) for group in one] for one in (groups, optimizer.param_groups))
    if sizes != ours:
        raise OptimizerMismatchError(
            f"the checkpoint's optimizer has {sum(sizes)} parameters in {len(sizes)} group(s), this run's {kind} "
            f"{sum(ours)} in {len(ours)}: the model, or optim_wrapper.paramwise_cfg, is not that of the checkpoint. "
            f"Set it as it was, or start a new run from the weights alone (load_from=... without --resume)"
        )


def _checked(original: Callable) -> Callable:
    def load_state_dict(self: Any, state_dict: dict) -> None:
        check_optimizer_state(self.optimizer, state_dict)
        original(self, state_dict)

    return load_state_dict


def patch_optimizer_state() -> None:
    """Lets optimizer wrappers refuse the state of another optimizer when a run is resumed."""
    from mmengine.optim import OptimWrapper

    patch(OptimWrapper, "load_state_dict", _checked)


def _without_empty_scaler(original: Callable) -> Callable:
    def load_state_dict(self: Any, state_dict: dict) -> None:
        check_optimizer_state(self.optimizer, state_dict)
        # A run without loss scaling (bfloat16) saves {}, which a scaler refuses to read.
        if state_dict.get("loss_scaler") == {}:
            state_dict = {name: value for name, value in state_dict.items() if name != "loss_scaler"}
        original(self, state_dict)

    return load_state_dict


def patch_loss_scaler() -> None:
    """Lets a run in float16 go on from a checkpoint in bfloat16 (of another GPU); refuses that of another optimizer."""
    from mmengine.optim import AmpOptimWrapper

    patch(AmpOptimWrapper, "load_state_dict", _without_empty_scaler)
