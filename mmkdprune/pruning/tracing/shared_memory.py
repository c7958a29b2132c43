"""Tensors that share memory: what is written through one of them, the others see."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor


class SharedMemory:
    """Knows, of all tensors that it was told of and that still exist, which ones share memory.

    Memory is told apart by its address, so that a view is found however it was made: by an operator, by ``.data`` or
    by way of a NumPy array.
    """

    def __init__(self) -> None:
        self._groups: dict[int, list[weakref.ref[Tensor]]] = {}

    def note(self, tensor: Tensor) -> bool:
        """Tell of a tensor; returns whether it is a new one."""
        address = _address(tensor)
        if not address:
            return False
        group = self._groups.get(address, [])
        if any(known() is tensor for known in group):
            return False
        self._groups[address] = [known for known in group if known() is not None]
        self._groups[address].append(weakref.ref(tensor))
        return True

    def others(self, tensor: Tensor) -> list[Tensor]:
        """All other tensors in the same memory."""
        group = self._groups.get(_address(tensor), [])
        found = (known() for known in group)
        return [other for other in found if other is not None and other is not tensor]


def same_place(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors in one memory are the same elements in the same order."""
    return geometry(first) == geometry(second)


def geometry(tensor: Tensor) -> tuple[Any, ...]:
    """Shape, strides, offset and type."""
    return (tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype)


class ElementMap:
    """A label for every element of a memory, to be read and written through the tensors that lie in it.

    Args:
        tensor (Tensor): One of these tensors.
    """

    CONSTANT, LOST = -1, -2

    def __init__(self, tensor: Tensor) -> None:
        size = tensor.untyped_storage().nbytes() // tensor.element_size()
        self.dtype = tensor.dtype
        self._labels = torch.full((size,), self.CONSTANT, dtype=torch.int64)
        self._zero = torch.zeros(size, dtype=torch.bool)

    def write(self, tensor: Tensor, labels: Tensor | int, zero: Tensor | bool) -> None:
        """Set labels and zeros where a tensor lies."""
        for values, new in ((self._labels, labels), (self._zero, zero)):
            place = self._at(values, tensor)
            place.copy_(new) if isinstance(new, Tensor) else place.fill_(new)

    def read(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        """Labels and zeros where a tensor lies, of its shape."""
        return self._at(self._labels, tensor).clone(), self._at(self._zero, tensor).clone()

    @staticmethod
    def _at(values: Tensor, tensor: Tensor) -> Tensor:
        return values.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())


def _address(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # sparse and other tensors without a memory of their own
        return 0
