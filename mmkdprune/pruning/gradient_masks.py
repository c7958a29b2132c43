"""Gradients of hard filters set to zero where they arise (``freeze='grad'``)."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from .units import Slot, Unit, like


class GradientMask:
    """Hook of a tensor: zeroes the gradient of what is hard; clipping, accumulation and reduction see zeros.

    Args:
        unit (Unit): Whose mask counts, as it is when the gradient arises.
        slot (Slot): Where the tensor stands in the unit.
    """

    def __init__(self, unit: Unit, slot: Slot) -> None:
        self.unit, self.slot = unit, slot

    def __call__(self, gradient: Tensor) -> Tensor | None:
        """Return a masked copy; None, for the gradient as it is, while nothing is hard."""
        if not self.unit.hard_count:
            return None
        gradient = gradient.clone()
        view = self.slot.covered(gradient, self.unit.hard)
        view.masked_fill_(like(self.unit.hard, view), 0)
        return gradient


def mask_gradients(units: Iterable[Unit], network: nn.Module, bn_policy: str) -> list[Any]:
    """Register the hooks of all units.

    Args:
        units (Iterable[Unit]): What is pruned.
        network (nn.Module): Whose tensors get them.
        bn_policy (str): With ``'none'`` BatchNorms are left alone.

    Returns:
        list: Handles that take them off again.
    """
    return [
        tensor.register_hook(GradientMask(unit, slot))
        for unit in units
        for slot, tensor in unit.tensors(network)
        if tensor.requires_grad and not (slot.is_norm and bn_policy == "none")
    ]
