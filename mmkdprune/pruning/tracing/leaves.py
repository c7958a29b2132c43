"""Find every tensor and number in what a network returns."""

from __future__ import annotations

import dataclasses
import types
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_PLAIN = (Tensor, bool, int, float, complex, str, bytes, np.generic, torch.Size, torch.dtype, torch.device)


class UnknownOutputError(TypeError):
    """An output holds an object that cannot be looked into; the message names its type and place."""


def leaves(value: Any, path: str = "output") -> list[tuple[str, Any]]:
    """All tensors, numbers and strings in an output, each with the place where it is.

    Lists, tuples, mappings, data classes, namespaces, iterators and plain objects are looked into; arrays become
    tensors in the same memory.

    Args:
        value: What a network returned. An iterator is used up.
        path: Its name in messages.

    Raises:
        UnknownOutputError: If something else is in it, which may hide tensors.
    """
    return list(_walk(value, path, set()))


def _walk(value: Any, path: str, parents: set[int]) -> Iterator[tuple[str, Any]]:
    if value is None:
        return
    if isinstance(value, _PLAIN):
        yield path, value
        return
    if isinstance(value, np.ndarray):
        try:
            yield path, torch.from_numpy(value)
        except (TypeError, ValueError):
            raise _unknown(value, path, f"an array of {value.dtype}") from None
        return
    if id(value) in parents:
        return
    for name, part in _parts(value, path):
        yield from _walk(part, name, parents | {id(value)})


def _parts(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Parts of a container, with their places."""
    if isinstance(value, Mapping):
        yield from ((f"{path}[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, (list, tuple, deque, Iterator)):
        yield from ((f"{path}[{index}]", part) for index, part in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        if len(value) > 1:
            raise _unknown(value, path, f"a {type(value).__name__} of {len(value)}, which has no order,")
        yield from ((f"{path}{{}}", part) for part in value)
    elif _is_plain_object(value):
        names = [field.name for field in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
        yield from ((f"{path}.{name}", getattr(value, name)) for name in dict.fromkeys([*names, *vars_of(value)]))
    else:
        raise _unknown(value, path, f"an object of type {type(value).__module__}.{type(value).__qualname__}")


def vars_of(value: Any) -> list[str]:
    """Names of an object's attributes, in its dictionary and in slots."""
    slots = [name for kind in type(value).__mro__ for name in _names(vars(kind).get("__slots__", ()))]
    return [*getattr(value, "__dict__", ()), *(name for name in slots if hasattr(value, name))]


def _names(slots: Any) -> list[str]:
    return [name for name in ([slots] if isinstance(slots, str) else slots) if name not in ("__dict__", "__weakref__")]


def _is_plain_object(value: Any) -> bool:
    """Whether all that an object of a class written in Python holds lies in its attributes."""
    if isinstance(value, type | types.FunctionType | types.ModuleType | torch.nn.Module):
        return False
    if dataclasses.is_dataclass(value) or isinstance(value, types.SimpleNamespace):
        return True
    own = [kind for kind in type(value).__mro__ if kind is not object]
    # Classes written in C hide what they hold, and have no attributes then.
    return bool(vars_of(value)) and all("__dict__" in vars(kind) or "__module__" in vars(kind) for kind in own)


def _unknown(value: Any, path: str, what: str) -> UnknownOutputError:
    return UnknownOutputError(
        f"{path} is {what}, which cannot be looked into: return tensors in lists, tuples, dictionaries, data classes "
        "or namespaces, or compact the part of the network before it (forward=..., or the backbone alone)"
    )
