"""Which layer a parameter or buffer belongs to."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from .shared_memory import SharedMemory, same_place


def is_convolution(module: nn.Module) -> bool:
    """Whether a module is a convolution, plain or deformable (of MMCV or torchvision, which are classes of their own).

    What counts is a weight (C_out, C_in / groups, ...) and attributes that tell these numbers.
    """
    if isinstance(module, _ConvNd):
        return True
    if isinstance(module, torch.jit.ScriptModule):  # stays as it is
        return False
    weight = module._parameters.get("weight")
    numbers = [getattr(module, name, None) for name in ("out_channels", "in_channels", "groups")]
    if weight is None or weight.ndim != 4 or not all(isinstance(number, int) for number in numbers):
        return False
    made, read, groups = numbers
    return groups > 0 and tuple(weight.shape[:2]) == (made, read // groups)  # type: ignore[operator]


class Owner(NamedTuple):
    """Where a parameter or buffer lies.

    Attributes:
        name: Module name.
        module: The module.
        attribute: Name of the tensor in it.
        fixed: Why the module cannot shrink; empty if it can.
    """

    name: str
    module: nn.Module
    attribute: str
    fixed: str

    def sizes(self) -> dict[str, int]:
        """Number of channels along the dimensions that could shrink with this tensor."""
        tensor = getattr(self.module, self.attribute)
        if (is_convolution(self.module) or isinstance(self.module, nn.Linear)) and self.attribute in ("weight", "bias"):
            weight: Tensor = self.module.weight  # type: ignore[assignment]  # a convolution may be of any class
            read = weight.shape[1] * int(getattr(self.module, "groups", 1))
            return {"out": len(weight), "in": read} if self.attribute == "weight" else {"out": len(weight)}
        return {"out": len(tensor)} if tensor.ndim == 1 else {}


class Ownership:
    """Finds the owners of a network's tensors, also through ``detach()`` and ``.data``.

    Args:
        network (nn.Module): The network.
    """

    def __init__(self, network: nn.Module) -> None:
        self.memory = SharedMemory()
        self._owners: dict[int, Owner] = {}
        self._held: list[Tensor] = []  # a tensor that is freed would give its id to another one
        fixed = _fixed(network)
        for name, module in network.named_modules():
            for attribute, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None:
                    self._hold(
                        tensor, self._owners.get(id(tensor)) or Owner(name, module, attribute, fixed.get(name, ""))
                    )

    def get(self, value: Any) -> Owner | None:
        """Owner of a tensor, or None."""
        return self._owners.get(id(value)) if isinstance(value, Tensor) else None

    def note(self, value: Tensor) -> bool:
        """Tell of a tensor that was met; returns whether it is a new one."""
        if not self.memory.note(value):
            return False
        for other in self.memory.others(value):
            owner = self.get(other)
            if owner is not None and same_place(value, other):
                self._hold(value, owner)
                break
        return True

    def holds(self, value: Tensor) -> bool:
        """Whether a tensor lies in the memory of a parameter or buffer."""
        return self.get(value) is not None or any(self.get(other) for other in self.memory.others(value))

    def _hold(self, tensor: Tensor, owner: Owner) -> None:
        self._owners[id(tensor)] = owner
        self._held.append(tensor)
        self.memory.note(tensor)


def _fixed(network: nn.Module) -> dict[str, str]:
    """Modules that cannot shrink, with the reason."""
    fixed: dict[str, str] = {}
    holders: dict[int, str] = {}
    scripted: list[str] = []
    for name, module in network.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            scripted.append(name)
        if any(name == outer or name.startswith(f"{outer}.") for outer in scripted):
            fixed[name] = f"{name} is scripted (TorchScript) and stays as it is"
        for value in module._parameters.values():
            other = holders.setdefault(id(value), name) if value is not None else name
            if other != name:
                fixed[name] = fixed[other] = f"{other} and {name} share a weight"
    return fixed
