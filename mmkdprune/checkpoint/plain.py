"""Nested data made of plain types only, so that ``torch.load(weights_only=True)`` reads it in any process."""

import os
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

# Types that the weights-only unpickler takes as they are. Exact types: a subclass pickles by its own name.
_PLAIN_TYPES = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray, torch.Size, torch.dtype})
# str.__str__, because str() of a string Enum member gives its name.
_PLAIN_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, int),
    (float, float),
    (complex, complex),
    (str, str.__str__),
    (bytes, bytes),
    (bytearray, bytearray),
)


class _LeftOut:
    """Marks a value that has no plain form."""


_LEFT_OUT = _LeftOut()


def to_plain(data: Any) -> tuple[Any, list[str]]:
    """Converts nested data to plain Python types and tensors.

    NumPy scalars become Python numbers, numeric NumPy arrays become tensors (other arrays become lists), deques become
    lists, subclasses of plain types and mappings become their base type. Tensors are shared, never copied, and a
    container in which nothing changes is returned as it is (a ``state_dict`` keeps its ``_metadata``). A value that
    has no plain form is left out together with the nearest dictionary key that holds it.

    Args:
        data (Any): Nested dictionaries, lists and leaves.

    Returns:
        tuple[Any, list[str]]: The plain data (``None`` when the whole is not plain), and what was left out, each as
        ``'path.to.key (type)'``.
    """
    left_out: list[str] = []
    plain = _convert(data, "", left_out)
    return (None if plain is _LEFT_OUT else plain), left_out


def _convert(data: Any, path: str, left_out: list[str]) -> Any:
    if type(data) in _PLAIN_TYPES or isinstance(data, (torch.Tensor, torch.device)):
        return data
    if isinstance(data, np.generic):
        return _convert_numpy_scalar(data, path, left_out)
    if isinstance(data, np.ndarray):
        return _convert_array(data, path, left_out)
    if isinstance(data, Mapping):
        return _convert_mapping(data, path, left_out)
    if isinstance(data, (list, tuple, deque, set, frozenset)):
        return _convert_sequence(data, path, left_out)
    for base, convert in _PLAIN_BASES:
        if isinstance(data, base):
            return convert(data)
    if isinstance(data, os.PathLike):
        return os.fspath(data)
    return _leave_out(data, path, left_out)


def _leave_out(data: Any, path: str, left_out: list[str]) -> _LeftOut:
    left_out.append(f"{path or 'the data'} ({type(data).__module__}.{type(data).__qualname__})")
    return _LEFT_OUT


def _convert_numpy_scalar(data: np.generic, path: str, left_out: list[str]) -> Any:
    if isinstance(data, np.floating):
        return float(data)
    value = data.item()
    # A structured or extended scalar can come back as itself.
    return _leave_out(data, path, left_out) if isinstance(value, np.generic) else _convert(value, path, left_out)


def _convert_array(data: np.ndarray, path: str, left_out: list[str]) -> Any:
    if data.dtype.kind not in "biufc":
        return _convert(data.tolist(), path, left_out)
    if data.dtype.kind == "u" and data.dtype.itemsize > 1:  # torch reads these only in its newer versions
        data = data.astype(np.int64)
    if data.dtype.kind in "fc" and data.dtype.itemsize > (8 if data.dtype.kind == "f" else 16):
        data = data.astype(np.float64 if data.dtype.kind == "f" else np.complex128)
    if not data.flags.writeable or not data.dtype.isnative or any(stride < 0 for stride in data.strides):
        data = data.astype(data.dtype.newbyteorder("="), order="C")
    return torch.from_numpy(data)


def _convert_sequence(data: Any, path: str, left_out: list[str]) -> Any:
    values = [_convert(value, f"{path}[{index}]", left_out) for index, value in enumerate(data)]
    if any(value is _LEFT_OUT for value in values):
        return _LEFT_OUT  # a shorter sequence would be a wrong one
    base = tuple if isinstance(data, tuple) else set if isinstance(data, (set, frozenset)) else list
    if type(data) is base and all(new is old for new, old in zip(values, data, strict=True)):
        return data
    return base(values)


def _convert_mapping(data: Mapping, path: str, left_out: list[str]) -> Any:
    # A Counter (MultiStepLR keeps one) is plain for PyTorch from 2.4 only; a dict serves the scheduler as well.
    items, changed = [], type(data) not in (dict, OrderedDict)
    for key, value in data.items():
        here = f"{path}.{key}" if path else str(key)
        plain_key = _convert(key, f"the key {here}", left_out)
        plain_value = _convert(value, here, left_out)
        if plain_key is _LEFT_OUT or plain_value is _LEFT_OUT:
            changed = True
            continue
        changed = changed or plain_key is not key or plain_value is not value
        items.append((plain_key, plain_value))
    if not changed:
        return data
    if type(data) is not OrderedDict:
        return dict(items)
    result = OrderedDict(items)
    result.__dict__.update(vars(data))  # the version metadata of a state_dict
    return result
