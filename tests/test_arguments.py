"""Wrong arguments of everything that users call: one wrong value of each kind for every argument."""

import collections.abc
import importlib
import inspect
import math
import types
import typing

import numpy as np
import pytest
import torch
from mmengine.registry import Registry
from torch import nn

from mmkdprune import registry
from mmkdprune.arguments import ArgumentError, checked

PACKAGES = ("mmkdprune.pruning", "mmkdprune.models.losses", "mmkdprune.datasets", "mmkdprune.evaluation")
METHODS = {"Pruner": ("step", "enforce", "attach_mirror", "load_state_dict", "counts")}
# Results that functions return; nobody makes them.
NOT_CHECKED = ("BatchedLogisticRegression", "CompactionError", "PlanError")


def public_callables():
    found = []
    for package in map(importlib.import_module, PACKAGES):
        found += [getattr(package, name) for name in package.__all__ if callable(getattr(package, name))]
    for children in vars(registry).values():
        if isinstance(children, Registry):
            children.import_from_location()
            found += [one for one in children.module_dict.values() if one.__module__.startswith("mmkdprune")]
    for one in [one for one in found if inspect.isclass(one)]:
        found += [getattr(one, name) for name in METHODS.get(one.__name__, ())]
        if issubclass(one, nn.Module) and one.__module__.startswith("mmkdprune.models.losses"):
            found.append(one.forward)
    return {id(one): one for one in found if one.__name__ not in NOT_CHECKED}.values()


WRONG = {
    float: ["x", math.nan, None, True, [1]],
    int: ["x", 1.5, None, True, [1]],
    bool: ["no", 1, None],
    str: [3, None, ["x"]],
    type(None): [3, "x"],
    nn.Module: [None, "x", {"type": "ResNet"}],
    torch.Tensor: [None, 3, [1.0], np.ones(2)],
    np.ndarray: [None, 3, "x"],
}


def wrong_values(annotation):
    """Values that an annotation does not allow, found without the code under test."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in WRONG:
        return WRONG[annotation]
    if origin in (typing.Union, types.UnionType):
        lists = [wrong_values(argument) for argument in arguments]
        return [one for one in lists[0] if all(repr(one) in map(repr, other) for other in lists[1:])] or [object()]
    if origin is collections.abc.Callable:
        return ["x", 3]
    if origin is tuple and arguments[-1] is not ...:
        return [3, "x", [1], None]
    if origin in (list, tuple, collections.abc.Sequence):
        return [3, None, {"a": 1}, *([one] for one in wrong_values(arguments[0]))]
    if annotation is dict or origin in (dict, collections.abc.Mapping):
        members = wrong_values(arguments[1]) if arguments and arguments[1] is not typing.Any else []
        return [3, [1], "x", None, *({"a": one} for one in members)]
    return [] if annotation is typing.Any else [object(), 3]


def arguments_of(one):
    """Annotated arguments of a callable, each with values that it must not take."""
    function = inspect.unwrap(one.__init__) if inspect.isclass(one) else inspect.unwrap(one)
    # Classes with the constructor of another package (and no dataclasses, whose __init__ has no module).
    if not getattr(function, "__module__", "").startswith("mmkdprune") and "__init__" not in vars(one):
        return {}
    hints = typing.get_type_hints(function)
    parameters = inspect.signature(function).parameters
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = {
        name: wrong_values(hints[name]) for name in parameters if name in hints and parameters[name].kind not in kinds
    }
    return {name: values for name, values in found.items() if values}


CALLABLES = {one.__qualname__: one for one in public_callables()}


@pytest.mark.parametrize("name", [name for name, one in CALLABLES.items() if arguments_of(one)])
def test_wrong_types_are_named(name):
    """The check comes before anything else, so that nothing but the wrong argument needs to be given."""
    call = CALLABLES[name]
    is_method = not inspect.isclass(call) and next(iter(inspect.signature(call).parameters)) == "self"
    for argument, values in arguments_of(call).items():
        for value in values:
            with pytest.raises(ArgumentError, match=f": {argument} must be .*, got ") as refused:
                call(**{argument: value}, **({"self": object()} if is_method else {}))
            assert isinstance(refused.value, ValueError)
            assert isinstance(refused.value, TypeError)


def test_there_are_cases_for_all_packages():
    tried = {name: arguments_of(one) for name, one in CALLABLES.items()}
    assert sum(len(values) for arguments in tried.values() for values in arguments.values()) > 1500
    modules = {CALLABLES[name].__module__ for name, arguments in tried.items() if arguments}
    for package in (*PACKAGES, "mmkdprune.models.algorithms", "mmkdprune.models.heads", "mmkdprune.models.backbones"):
        assert any(module.startswith(package) for module in modules), package


def test_what_an_argument_may_be():
    @checked
    def call(
        number: float = 0.0,
        count: np.integer | int = 0,
        names: collections.abc.Sequence[str] | str = (),
        size: tuple[int, int] = (1, 1),
        rates: collections.abc.Mapping[str, float] | None = None,
        *,
        anything: typing.Any = None,
        **more: typing.Any,
    ) -> tuple:
        return number, count, names, size, rates, anything, more

    assert call(1, np.int64(3), ["a"], [2, 3], {"a": np.float32(1)}, anything=call, other="x")[1:4] == (
        3,
        ["a"],
        [2, 3],
    )
    assert call(math.inf, names="abc", size=(4, 5))[0] == math.inf
    with pytest.raises(ArgumentError, match=r"^call: size must be \(a whole number, a whole number\), got \(1, 'x'\)$"):
        call(size=(1, "x"))
    message = r"^call: names must be a list or tuple, each member text or text, got \[3\]$"
    with pytest.raises(ArgumentError, match=message):
        call(names=[3])
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        checked(lambda: None)(rate=3)
