"""What the loss would make of more or less of each channel: derivatives, averaged from one prune step to the next."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from .units import Slot, Unit


class _Part(NamedTuple):
    """A tensor whose gradient tells of a unit's channels."""

    slot: Slot
    tensor: Tensor
    by_scale: bool

    def derivative(self, unit: Unit) -> Tensor:
        """Derivative of the loss by the strength of every channel, as far as this tensor carries it, (N,)."""
        assert self.tensor.grad is not None
        gradient = self.slot.covered(self.tensor.grad, unit.pruned).float()
        if self.by_scale:
            return gradient
        return (gradient * self.slot.covered(self.tensor, unit.pruned)).flatten(1).sum(1)


class GradientRecord:
    """Mean absolute derivative of the loss by the strength of each channel, over the steps since a prune step.

    Where a trained BatchNorm scale follows, the strength of a channel is that scale, so that a filter is judged alike
    whether its scale is 0 or not: by what the next bit of scale would do. Elsewhere it is a factor of the whole filter,
    whose derivative is the scalar product of gradient and weights; that is 0 for a filter that is 0.

    Gradients are read when the optimizer is about to use them: averaged over processes, summed over accumulated batches
    and unscaled. Nothing is read back from the device.

    Args:
        units (Sequence[Unit]): What is pruned.
    """

    def __init__(self, units: Sequence[Unit]) -> None:
        self.units = list(units)
        self.steps = 0
        self.seen = dict.fromkeys((unit.name for unit in units), False)
        self._sizes = [unit.size for unit in units]
        self._sum: Tensor | None = None  # of all units, one after the other
        self._mean: Tensor | None = None  # at the latest prune step

    def attach(self, network: nn.Module, optimizer: Optimizer) -> RemovableHandle:
        """Read the gradients of an optimizer before each of its steps.

        Args:
            network (nn.Module): What is pruned.
            optimizer (Optimizer): Other optimizers may train other parameters of it.
        """
        own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        parts = {}
        for unit in self.units:
            gates = unit.gates(network)
            tensors = gates or [pair for pair in unit.tensors(network) if not pair[0].is_norm and pair[1].ndim > 1]
            parts[unit.name] = [_Part(slot, one, bool(gates)) for slot, one in tensors if id(one) in own]
        return optimizer.register_step_pre_hook(functools.partial(self._observe, parts))

    @torch.no_grad()
    def _observe(self, parts: Mapping[str, list[_Part]], optimizer: Optimizer, *_: Any) -> None:
        rows = []
        for unit in self.units:
            known = [part.derivative(unit) for part in parts[unit.name] if part.tensor.grad is not None]
            self.seen[unit.name] |= bool(known)
            rows.append(torch.stack(known).sum(0) if known else unit.pruned.new_zeros(unit.size, dtype=torch.float32))
        derivatives = torch.cat([row.to(rows[0].device, non_blocking=True) for row in rows]).abs()
        scale, overflow = (getattr(optimizer, name, None) for name in ("grad_scale", "found_inf"))
        if scale is not None:  # a fused optimizer unscales by itself
            derivatives = derivatives / scale.to(derivatives.device, non_blocking=True)
        if overflow is not None:  # and leaves this step out
            skipped = overflow.to(derivatives.device, non_blocking=True).bool()
            derivatives = torch.where(skipped, torch.zeros_like(derivatives), derivatives)
        if self._sum is None:
            self._sum = torch.zeros_like(derivatives)
        self._sum = self._sum.to(derivatives.device).add_(derivatives)
        self.steps += 1

    def close(self) -> None:
        """End the average: a prune step takes place. Without a step of the optimizer since, the last one stands.

        Raises:
            ValueError: If there has been no gradient of a unit so far.
        """
        if self.steps and self._sum is not None:
            self._mean = self._sum / self.steps
            self._sum, self.steps = None, 0
        if self._mean is None:
            raise ValueError(
                "criterion 'taylor' ranks filters by gradients, and there were none before this prune step: call "
                "pruner.attach_optimizer(optimizer) before training, and do not prune before it (prune_at_start=False)"
            )
        if unseen := [name for name, seen in self.seen.items() if not seen]:
            raise ValueError(
                f"criterion 'taylor' ranks filters by gradients, and {', '.join(unseen[:3])} had none, frozen or "
                "unused as they are: leave them out with exclude, or take another criterion"
            )

    def of(self, unit: Unit) -> Tensor:
        """Mean absolute derivatives of a unit's channels at the latest prune step, float32, (N,)."""
        assert self._mean is not None  # close comes first
        parts = dict(zip((one.name for one in self.units), self._mean.split(self._sizes), strict=True))
        return parts[unit.name].to(unit.pruned.device, non_blocking=True)

    def state_dict(self) -> dict[str, Any]:
        """Sums, means and how many steps they are of."""
        tensors = {"sum": self._sum, "mean": self._mean}
        tensors = {name: None if value is None else value.cpu().clone() for name, value in tensors.items()}
        return {"steps": self.steps, "seen": dict(self.seen), **tensors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another record was."""
        device = self.units[0].pruned.device
        self.steps, self.seen = state["steps"], dict(state["seen"])
        self._sum, self._mean = (
            None if state[name] is None else state[name].clone().to(device) for name in ("sum", "mean")
        )
