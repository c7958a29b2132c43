"""Watch a forward pass operator by operator: the one mechanism behind all tracing and every comparison of passes.

It is PyTorch's dispatcher that is watched, below modules and autograd. So frozen parameters, activation checkpointing,
in-place operations and control flow in ``forward`` make no difference, and nothing is guessed from names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from ..forward import flat
from .operators import base_name
from .ownership import Ownership

Known = TypeVar("Known")


class Call:
    """One operator as a forward pass calls it.

    Attributes:
        func: The operator.
        name: Its name, without namespace and the underscore of an in-place form.
        args: Its arguments, with all that can be positional in its position.
        kwargs: The others.
        out: What it returned; set by :meth:`run`.
    """

    out: Any

    def __init__(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.func, self.name = func, base_name(func)
        self.args, self.kwargs = _bound(func, args, kwargs)

    def run(self) -> None:
        """Call the operator."""
        self.out = self.func(*self.args, **self.kwargs)

    @cached_property
    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments."""
        return _tensors([self.args, self.kwargs])

    @property
    def first(self) -> Tensor | None:
        """The first argument, if it is a tensor."""
        return self.args[0] if self.args and isinstance(self.args[0], Tensor) else None

    @property
    def result(self) -> Any:
        """What it computes: the first of several tensors, or what it returned."""
        several = isinstance(self.out, (tuple, list)) and self.out and isinstance(self.out[0], Tensor)
        return self.out[0] if several else self.out

    @cached_property
    def results(self) -> list[Tensor]:
        """All tensors that it returned."""
        return _tensors(self.out)

    def written(self) -> Iterator[Tensor]:
        """Tensors that it writes to."""
        for index, argument in enumerate(self.func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                value = self.args[index] if index < len(self.args) else self.kwargs.get(argument.name)
                yield from filter(torch.is_tensor, value if isinstance(value, (tuple, list)) else [value])


class Watcher(TorchDispatchMode):
    """Sees every operator of the forward passes within a ``with`` block."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Hand an operator to :meth:`watch`."""
        call = Call(func, args, kwargs or {})
        self.watch(call)
        return call.out

    def watch(self, call: Call) -> None:
        """Run an operator (``call.run()``) and look at what goes in before and at what came out after."""
        raise NotImplementedError


class Untouched(Enum):
    """What a rule returns if nothing new is known of the results."""

    UNTOUCHED = 0


UNTOUCHED = Untouched.UNTOUCHED
Rule = Callable[[Any, Call, Any], Any]


class Follower(Watcher, Generic[Known]):
    """Carries what is known of the network's input from tensor to tensor, by a rule for each operator.

    A rule is called as ``rule(self, call, known)``, with what is known of the first argument (None if that is nothing).
    It returns what is then known of the result, None if the result depends on the input in a way that could not be
    followed, or ``UNTOUCHED``.

    Attributes:
        rules: Rules by the name of the operator.
        rules_of_one: Those that are of use only where something is known of the first argument.

    Args:
        network (nn.Module): Whose parameters are met.
    """

    rules: ClassVar[Mapping[str, Rule]] = {}
    rules_of_one: ClassVar[Mapping[str, Rule]] = {}

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.owned = Ownership(network)
        self.states: Any = WeakIdKeyDictionary()  # None: it depends on the input, but could not be followed

    def known(self, value: Any) -> Known | None:
        """What is known of a tensor."""
        return self.states.get(value) if isinstance(value, Tensor) else None

    def set(self, tensor: Tensor, known: Known | None) -> None:
        """Note what is known of a tensor; None if it is lost."""
        self.states[tensor] = known

    def is_lost(self, value: Any) -> bool:
        """Whether a tensor depends on the input in a way that could not be followed."""
        return isinstance(value, Tensor) and self.known(value) is None and value in self.states

    def is_met(self, call: Call) -> bool:
        """Whether anything that goes into an operator depends on the input."""
        return any(value in self.states for value in call.tensors)

    def followed(self, call: Call, known: Known | None) -> Known | Untouched | None:
        """What the rule for an operator says of its result."""
        rule = self.rules.get(call.name)
        if rule is None and known is not None:
            rule = self.rules_of_one.get(call.name, type(self).other)
        return self.unknown(call) if rule is None else rule(self, call, known)

    def other(self, call: Call, known: Known) -> Known | None:
        """The rule for operators without one, where something is known of the first argument."""
        return self.unknown(call)

    def unknown(self, call: Call) -> Known | None:
        """Give up following what goes into an operator; returns None, as nothing is known of what comes out."""
        raise NotImplementedError


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in flat(values) if isinstance(value, Tensor)]


def _bound(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same arguments, with all that can be positional in its position."""
    positional, keywords = list(args), dict(kwargs)
    for argument in func._schema.arguments[len(args) :]:
        if argument.kwarg_only:
            break
        if argument.name in keywords:
            positional.append(keywords.pop(argument.name))
        elif keywords and argument.has_default_value():
            positional.append(argument.default_value)
        else:
            break
    return tuple(positional), keywords
