"""What a mask acts on: slices of parameters and statistics, and the arithmetic on them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Share of the prune steps from which bn_policy='scale' takes shifts, too: what is masked then hardly comes back, and
# the network has to learn to do without the constant that a shift is.
SETTLED = 0.75


@dataclass(frozen=True)
class Slot:
    """A tensor of the model whose first dimension (from ``offset`` on), or every element, a mask covers.

    Attributes:
        path: Name of the module.
        attribute: Name of the tensor in it.
        offset: First index that the mask covers.
        is_norm: Whether it belongs to a BatchNorm, which the BatchNorm policy decides on.
        neutral: Value at pruned indices. Other than 0 only for statistics.
        is_gate: Whether it is the scale that everything which its channels give passes through.
    """

    path: str
    attribute: str
    offset: int = 0
    is_norm: bool = False
    neutral: float = 0.0
    is_gate: bool = False

    @property
    def is_statistic(self) -> bool:
        """Whether it is a running statistic, which is neither decayed nor trained."""
        return self.attribute.startswith("running_")

    def tensor(self, network: nn.Module) -> Tensor | None:
        """The tensor in a network, or None if it has none (a convolution without bias)."""
        return getattr(network.get_submodule(self.path), self.attribute, None)

    def covered(self, tensor: Tensor, mask: Tensor) -> Tensor:
        """View of the part that the mask covers."""
        view = tensor.detach()
        return view if view.shape == mask.shape else view.narrow(0, self.offset, len(mask))


@dataclass
class Unit:
    """Filters (or weights) that are ranked together and share one mask.

    Attributes:
        name: Name of the first layer.
        members: Names of all layers.
        size: Number of filters or weights N.
        rate: Target pruning rate.
        slots: Everything that the mask covers.
        pruned: The mask, bool, (N,) or of the weight's shape: True = pruned.
        hard: Its part that is zeroed and frozen.
        hard_count: Number of hard filters, known without reading the mask.
        pruned_count: Likewise of pruned ones.
        gated: Whether soft pruning acts on the scales of its BatchNorms alone (``bn_policy='scale'``).
    """

    name: str
    members: list[str]
    size: int
    rate: float
    slots: list[Slot]
    pruned: Tensor
    hard: Tensor
    hard_count: int = 0
    pruned_count: int = 0
    gated: bool = False

    def tensors(self, network: nn.Module, statistics: bool = False) -> Iterator[tuple[Slot, Tensor]]:
        """Slots and tensors in a network."""
        for slot in self.slots:
            if (statistics or not slot.is_statistic) and (tensor := slot.tensor(network)) is not None:
                yield slot, tensor

    def gates(self, network: nn.Module) -> list[tuple[Slot, Tensor]]:
        """Scales of the BatchNorms that all of its channels pass through; empty where one has none, or a frozen one."""
        slots = [slot for slot in self.slots if slot.is_gate]
        scales = [(slot, scale) for slot in slots if (scale := slot.tensor(network)) is not None]
        return scales if len(scales) == len(slots) and all(scale.requires_grad for _, scale in scales) else []

    def follow_device(self, network: nn.Module) -> None:
        """Move the masks to where the weights are."""
        device = weight_of(network, self.name).device
        if self.hard.device != device:
            self.pruned, self.hard = self.pruned.to(device), self.hard.to(device)


def weight_of(network: nn.Module, name: str) -> Tensor:
    """Weight of a layer, without gradient."""
    weight = network.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight.detach()


def like(mask: Tensor, view: Tensor) -> Tensor:
    """Reshape a mask so that it broadcasts over the further dimensions of a view."""
    return mask.view(mask.shape + (1,) * (view.ndim - mask.ndim))


def first_masked(
    unit: Unit, order: Tensor | None, pruned_count: int, hard_count: int
) -> tuple[Tensor, Tensor, int, int]:
    """Masks of the first filters of an order.

    Args:
        unit (Unit): Whose masks they will be.
        order (Tensor | None): Indices of filters, int64, (N,); not needed where the numbers are 0.
        pruned_count (int): How many are pruned.
        hard_count (int): How many of these are hard.

    Returns:
        tuple: The masks of what is pruned and of what is hard, bool, (N,), and the two numbers.
    """
    pruned, hard = torch.zeros_like(unit.pruned), torch.zeros_like(unit.hard)
    if order is not None:
        pruned[order[:pruned_count]] = True
        hard[order[:hard_count]] = True
    return pruned, hard, pruned_count, hard_count


@torch.no_grad()
def apply_masks(unit: Unit, network: nn.Module, alpha: float, bn_policy: str, is_settled: bool = False) -> None:
    """Do one prune step on a unit: hard filters to 0, soft ones times ``alpha``, the others as they are.

    Conv biases follow the weights. BatchNorm by policy: ``'none'`` leaves it alone, ``'follow'`` treats scale and
    shift like the weights, ``'hard_only'`` zeros them at hard filters, ``'scale'`` as well, and multiplies the scale of
    soft ones, whose weights it leaves as they are, and their shift, too, until the masks have settled.
    """
    if not unit.pruned_count:
        return
    soft = unit.pruned & ~unit.hard
    for slot, tensor in unit.tensors(network, statistics=True):
        if slot.is_norm and bn_policy == "none":
            continue
        view = slot.covered(tensor, unit.pruned)
        view.masked_fill_(like(unit.hard, view), slot.neutral)
        if slot.is_statistic or (slot.is_norm and bn_policy == "hard_only") or alpha == 1:
            continue
        if unit.gated and not slot.is_gate and not (is_settled and slot.is_norm and slot.attribute == "bias"):
            continue
        if alpha == 0:
            view.masked_fill_(like(soft, view), 0)  # a product would keep infinities and the sign of zero
        else:
            view.mul_(like(torch.ones_like(soft, dtype=view.dtype).masked_fill_(soft, alpha), view))


@torch.no_grad()
def zero_hard(unit: Unit, network: nn.Module, bn_policy: str) -> None:
    """Zero the weights of hard filters (and scale and shift of their BatchNorms) again."""
    for slot, tensor in unit.tensors(network):
        if not (slot.is_norm and bn_policy == "none"):
            view = slot.covered(tensor, unit.hard)
            view.masked_fill_(like(unit.hard, view), 0)


@torch.no_grad()
def zero_optimizer_state(unit: Unit, network: nn.Module, optimizer: torch.optim.Optimizer, bn_policy: str) -> None:
    """Zero what the optimizer remembers of hard filters: every buffer that has the shape of its parameter.

    Momentum would move a zeroed filter again. The state of soft filters is left alone: it is what revives them.
    """
    for slot, tensor in unit.tensors(network):
        if slot.is_norm and bn_policy == "none":
            continue
        for value in optimizer.state.get(tensor, {}).values():
            if isinstance(value, Tensor) and value.shape == tensor.shape and value.ndim:
                view = slot.covered(value, unit.hard)
                view.masked_fill_(like(unit.hard, view), 0)


def silent_filters(unit: Unit, network: nn.Module) -> Tensor:
    """Tell which filters (or weights) are zero, or have a scale of zero in a unit that is gated; bool, as the mask."""
    zero = zero_filters(unit, network)
    if unit.gated:
        closed = [slot.covered(scale, unit.pruned) == 0 for slot, scale in unit.gates(network)]
        zero = zero | torch.stack(closed).all(0)
    return zero


def zero_filters(unit: Unit, network: nn.Module) -> Tensor:
    """Tell which filters (or weights) are zero in all members, bool, of the mask's shape."""
    zero: Tensor | None = None
    for slot, tensor in unit.tensors(network):
        if not slot.is_norm and slot.attribute == "weight":
            own = slot.covered(tensor, unit.pruned) == 0
            own = own.flatten(unit.pruned.ndim).all(unit.pruned.ndim) if own.ndim > unit.pruned.ndim else own
            zero = own if zero is None else zero & own
    assert zero is not None  # every unit has weights
    return zero
