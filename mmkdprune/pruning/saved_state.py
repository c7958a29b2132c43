"""Check the saved state of a pruner before it is loaded."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .history import COUNTS, TIMES
from .units import Unit

# Settings that earlier versions did not have: what these meant shows in the masks, which are compared as well,
_NEW = ("prune_outputs",)
# or was always this.
_EARLIER = {"ranking": "layer"}


def check_state(state: Mapping[str, Any]) -> None:
    """Refuse what no ``state_dict`` of a pruner returned.

    Args:
        state (Mapping[str, Any]): Of a checkpoint, as a rule.

    Raises:
        ValueError: With the entry that is missing or of another kind.
    """
    kinds: dict[str, Any] = {"settings": Mapping, "units": Mapping, "history": Mapping, "finalized": bool}
    for name, kind in kinds.items():
        if not isinstance(state.get(name), kind):
            found = repr(state[name])[:80] if name in state else "nothing"
            raise ValueError(f"state[{name!r}] is not what Pruner.state_dict returns, got {found}")
    position = state.get("position")
    if position is not None and not (isinstance(position, list | tuple) and len(position) == 3):
        raise ValueError(f"state['position'] is not what Pruner.state_dict returns, got {position!r:.80}")
    for name, unit in state["units"].items():
        masks = [unit.get(key) for key in ("pruned", "hard")] if isinstance(unit, Mapping) else [None]
        if not all(isinstance(mask, Tensor) and mask.dtype == torch.bool for mask in masks):
            raise ValueError(f"state['units'][{name!r}] is not what Pruner.state_dict returns: it needs two bool masks")
    if missing := [name for name in ("sizes", *TIMES, *COUNTS) if name not in state["history"]]:
        raise ValueError(f"state['history'] is not what Pruner.state_dict returns: it lacks {', '.join(missing)}")
    if (gradients := state.get("gradients")) is not None and not (
        isinstance(gradients, Mapping) and {"steps", "seen", "sum", "mean"} <= gradients.keys()
    ):
        raise ValueError(f"state['gradients'] is not what Pruner.state_dict returns, got {gradients!r:.80}")


def check_settings(state: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Refuse the state of a pruner with other settings.

    Args:
        state (Mapping[str, Any]): Of a pruner.
        ours (Mapping[str, Any]): Settings of the one that it is for.

    Raises:
        ValueError: With the setting and both values.
    """
    assumed = {**_EARLIER, **{name: ours.get(name) for name in _NEW}}
    theirs = {**{name: value for name, value in assumed.items() if name in ours}, **state["settings"]}
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise ValueError(
                f"pruner.{name} is {ours.get(name)!r} here but was {theirs.get(name)!r} in the run to resume: set "
                f"it back, or start a new run from its weights (load_from without resume)"
            )


def check_masks(state: Mapping[str, Any], units: Sequence[Unit]) -> None:
    """Refuse masks of another network.

    Args:
        state (Mapping[str, Any]): Of a pruner.
        units (Sequence[Unit]): Of the pruner that it is for.

    Raises:
        ValueError: With the first layer that differs.
    """
    saved = state["units"]
    if surplus := sorted(saved.keys() - {unit.name for unit in units}):
        raise ValueError(
            f"the run to resume has masks for another network: {', '.join(surplus[:3])} are not pruned here"
        )
    for unit in units:
        if unit.name not in saved or saved[unit.name]["pruned"].shape != unit.pruned.shape:
            found = tuple(saved[unit.name]["pruned"].shape) if unit.name in saved else "none"
            raise ValueError(
                f"the run to resume has masks for another network: {unit.name} needs one of shape "
                f"{tuple(unit.pruned.shape)}, found {found}"
            )


def save_masks(units: Sequence[Unit]) -> dict[str, dict[str, Tensor]]:
    """Masks by unit, as :func:`load_masks` takes them.

    Args:
        units (Sequence[Unit]): Of a pruner.
    """
    return {unit.name: {"pruned": unit.pruned.cpu().clone(), "hard": unit.hard.cpu().clone()} for unit in units}


def load_masks(state: Mapping[str, Any], units: Sequence[Unit]) -> None:
    """Give units the masks of a state that :func:`check_masks` has let through.

    Args:
        state (Mapping[str, Any]): Of a pruner.
        units (Sequence[Unit]): Of the pruner that it is for; changed in place.
    """
    for unit in units:
        saved = state["units"][unit.name]
        unit.pruned = saved["pruned"].clone().to(unit.pruned.device)
        unit.hard = saved["hard"].clone().to(unit.hard.device)
        unit.hard_count, unit.pruned_count = int(unit.hard.sum()), int(unit.pruned.sum())
