"""Check the saved state of a pruner before it is loaded."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .history import COUNTS, TIMES


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
