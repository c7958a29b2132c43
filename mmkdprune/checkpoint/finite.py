"""Weights that are not numbers: refused before anything is made of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class NonFiniteWeightsError(ValueError):
    """A checkpoint holds weights that are infinite or not a number."""


def non_finite_keys(state: Mapping[str, Any], initial: Mapping[str, Any] | None = None) -> list[str]:
    """Keys of tensors with infinite values or NaN.

    Args:
        state (Mapping[str, Any]): A state dict.
        initial (Mapping[str, Any], optional): That of the network before loading: what is not finite there in the same
            places is so by design, such as the mask of an attention. Defaults to None.

    Returns:
        list[str]: The keys, in order.
    """
    found = []
    for key, value in state.items():
        if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
            continue
        finite = torch.isfinite(value)
        if bool(finite.all()):
            continue
        designed = None if initial is None else initial.get(key)
        if isinstance(designed, Tensor) and designed.shape == value.shape:
            finite |= ~torch.isfinite(designed.to(value.device))
        if not bool(finite.all()):
            found.append(key)
    return found


def refuse_non_finite(state: Mapping[str, Any], source: str | Path, network: nn.Module | None = None) -> None:
    """Refuse weights that are not finite: of a run that diverged, no use can be made.

    Args:
        state (Mapping[str, Any]): The weights.
        source (str | Path): Their file, for the message.
        network (nn.Module, optional): The network before it is loaded, for values that are infinite by design.

    Raises:
        NonFiniteWeightsError: Some are not; the message names them.
    """
    keys = non_finite_keys(state, None if network is None else network.state_dict())
    if keys:
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        raise NonFiniteWeightsError(
            f"{source} holds weights that are infinite or not a number: {len(keys)} of {len(state)} tensors "
            f"({', '.join(keys[:3])}{more}). The run that saved it has diverged: take an earlier checkpoint, or train "
            "again with a lower learning rate"
        )
