"""Check arguments against their annotations, so that a wrong one is named where it is given."""

import collections.abc
import functools
import inspect
import math
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

_Checked = TypeVar("_Checked", bound=Callable)
# Tells whether a value is good, and says what a good one is.
_Check = tuple[Callable[[Any], bool], str]
# Absent before PyTorch 2.3; the checks are then part of the graph's guards.
_is_compiling = getattr(torch.compiler, "is_compiling", lambda: False)
_NAMES = {str: "text", dict: "a dict", torch.Tensor: "a tensor", torch.nn.Module: "an nn.Module", type(None): "None"}


class ArgumentError(ValueError, TypeError):
    """An argument has the wrong type; the message names it, its value and what would do."""


def checked(target: _Checked) -> _Checked:
    """Make a function, a method or the constructor of a class compare its arguments with their annotations.

    Numbers are finite or infinite but never NaN, ``bool`` is not a number and a number is not a ``bool``, text is not a
    sequence, and a list does for a tuple, as in configs. Members of sequences and mappings are looked at, too. What is
    not annotated, or with ``Any``, passes. Compiled code is not checked.

    Args:
        target (Callable): Function, method, or class, whose ``__init__`` is replaced.

    Returns:
        Callable: The same, which raises :class:`ArgumentError`.
    """
    if isinstance(target, type):
        target.__init__ = checked(target.__init__)  # type: ignore[misc]
        return target
    parameters = inspect.signature(target).parameters.values()
    is_method = next((parameter.name for parameter in parameters), "") in ("self", "cls")
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [parameter.name for parameter in parameters if parameter.kind in kinds]
    named = {parameter.name for parameter in parameters if parameter.kind is not inspect.Parameter.VAR_KEYWORD}

    @functools.lru_cache(maxsize=1)
    def checks() -> dict[str, _Check]:
        """At the first call, when every class that is named exists."""
        hints = typing.get_type_hints(target)
        return {name: make_check(hint) for name, hint in hints.items() if name in named and hint is not Any}

    @functools.wraps(target)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not _is_compiling():
            known = checks()
            for name, value in (*zip(positional, args, strict=False), *kwargs.items()):
                check = known.get(name)
                if check is not None and not check[0](value):
                    raise ArgumentError(
                        f"{_owner(target, args, is_method)}: {name} must be {check[1]}, got {shown(value)}"
                    )
        return target(*args, **kwargs)

    return typing.cast(_Checked, call)


def shown(value: Any) -> str:
    """A value in a message: tensors and modules by their kind, and nothing longer than a line."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    if isinstance(value, torch.nn.Module):
        return f"a {type(value).__name__}"
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def make_check(annotation: Any) -> _Check:
    """Make the check of an annotation.

    Args:
        annotation (Any): A type, a union, a sequence, a mapping or a callable.

    Returns:
        tuple[Callable[[Any], bool], str]: Whether a value is good, and in words what a good one is.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is None:
        annotation = type(None)
    if annotation is Any or isinstance(annotation, TypeVar):
        return (lambda value: True), "anything"
    if origin in (typing.Union, types.UnionType):
        return _any_of([make_check(argument) for argument in arguments])
    if origin is typing.Literal:
        return (lambda value: value in arguments), f"one of {', '.join(map(repr, arguments))}"
    if annotation in _NUMBERS:
        return _NUMBERS[annotation]
    if annotation is str:  # a path is given as such, too
        return (lambda value: isinstance(value, str | os.PathLike)), _NAMES[str]
    kind = origin or annotation
    if kind is collections.abc.Callable:
        return callable, "a callable"
    if kind is type:
        return (lambda value: isinstance(value, type)), "a class"
    if not isinstance(kind, type):
        return (lambda value: True), "anything"
    if issubclass(kind, Mapping):
        return _mapping(kind, arguments)
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        return _fixed_tuple([make_check(argument) for argument in arguments])
    if kind in (list, tuple, collections.abc.Sequence, collections.abc.Iterable):
        return _series(kind, arguments)
    return (lambda value: isinstance(value, kind)), _NAMES.get(kind, f"a {kind.__name__}")


def _is_float(value: Any) -> bool:
    good = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return good and not math.isnan(value)


_NUMBERS: dict[Any, _Check] = {
    float: (_is_float, "a number"),
    int: (lambda value: isinstance(value, int | np.integer) and not isinstance(value, bool), "a whole number"),
    bool: (lambda value: isinstance(value, bool | np.bool_), "True or False"),
}


def _any_of(checks: list[_Check]) -> _Check:
    tests = [test for test, _ in checks]
    *first, last = (text for _, text in checks)
    return (lambda value: any(test(value) for test in tests)), f"{', '.join(first)} or {last}"


def _mapping(kind: type, arguments: tuple) -> _Check:
    kind = dict if kind is dict else Mapping
    if not arguments:
        return (lambda value: isinstance(value, kind)), "a dict"
    (is_key, key), (is_value, item) = map(make_check, arguments)
    text = "a dict" if item == "anything" else f"a dict of {key} and {item}"
    return (
        lambda value: isinstance(value, kind) and all(is_key(one) and is_value(other) for one, other in value.items())
    ), text


def _series(kind: Any, arguments: tuple) -> _Check:
    is_item, item = make_check(arguments[0]) if arguments else ((lambda value: True), "anything")
    if kind is collections.abc.Iterable:  # not looked into: that could use it up
        return (lambda value: isinstance(value, kind) and not isinstance(value, str | bytes | Mapping)), "an iterable"
    kinds = (list, tuple, np.ndarray) if kind in (list, tuple) else (collections.abc.Sequence, np.ndarray)
    return (
        lambda value: isinstance(value, kinds) and not isinstance(value, str | bytes) and all(map(is_item, value))
    ), "a list or tuple" if item == "anything" else f"a list or tuple, each member {item}"


def _fixed_tuple(checks: list[_Check]) -> _Check:
    tests = [test for test, _ in checks]

    def is_good(value: Any) -> bool:
        members = isinstance(value, list | tuple) and len(value) == len(tests)
        return members and all(test(item) for test, item in zip(tests, value, strict=True))

    return is_good, f"({', '.join(text for _, text in checks)})"


def _owner(target: Callable, args: tuple, is_method: bool) -> str:
    name = target.__name__
    if not is_method or not args:
        return name
    kind = args[0] if isinstance(args[0], type) else type(args[0])
    return kind.__name__ if name in ("__init__", "__call__", "forward") else f"{kind.__name__}.{name}"


def check_number(
    field: str,
    value: Any,
    low: float,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
    optional: bool = False,
) -> None:
    """Raise ``ValueError`` unless ``value`` is a number between ``low`` and ``high`` (or None, if ``optional``)."""
    if value is None and optional:
        return
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if good:
        good = (value > low if open_low else value >= low) and (value < high if open_high else value <= high)
    if not good:
        interval = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high or math.isinf(high) else ']'}"
        raise ValueError(f"{field} must be a number in {interval}{' or None' if optional else ''}, got {value!r}")


def check_count(field: str, value: Any, low: int, optional: bool = False) -> None:
    """Raise ``ValueError`` unless ``value`` is a whole number of at least ``low`` (or None, if ``optional``)."""
    if value is None and optional:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ValueError(
            f"{field} must be a whole number of {low} or more{' or None' if optional else ''}, got {value!r}"
        )


def check_choice(field: str, value: Any, choices: Sequence[str]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{field} must be one of {', '.join(map(repr, choices))}, got {value!r}")
