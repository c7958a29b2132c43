"""One way to replace a function of another package: once, by name, with the original at hand."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

_MARK = "__mmkdprune_patch__"


def patch(owner: Any, name: str, make: Callable[[Callable], Callable]) -> None:
    """Replaces ``owner.name`` by ``make(original)``, unless that was done before.

    Args:
        owner (Any): Module or class that holds the function.
        name (str): The function's name in ``owner``.
        make (Callable): Gets the original function and returns the one to put in its place. Both take the class as
            first argument where ``name`` is a class method.
    """
    original = getattr(owner, name)
    if hasattr(original, _MARK):
        return
    kind = type(inspect.getattr_static(owner, name))
    if kind is classmethod:
        original = original.__func__  # bound to the owner, it would forget a subclass
    replacement = functools.wraps(original)(make(original))
    setattr(replacement, _MARK, True)
    setattr(owner, name, kind(replacement) if kind in (classmethod, staticmethod) else replacement)
