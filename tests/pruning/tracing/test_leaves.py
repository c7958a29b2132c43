"""Every tensor in an output is found; what cannot be looked into is refused with its place."""

import collections
import dataclasses
import functools
import operator
import types

import numpy as np
import pytest
import torch

from mmkdprune.pruning.tracing.leaves import UnknownOutputError, leaves

TENSOR = torch.arange(3.0)


@dataclasses.dataclass
class Result:
    logits: torch.Tensor
    name: str = "image"


class Slotted:
    __slots__ = ("logits",)

    def __init__(self):
        self.logits = TENSOR


class Plain:
    def __init__(self, logits):
        self.logits = logits


@pytest.mark.parametrize(
    ("output", "place"),
    [
        (TENSOR, "output"),
        ([None, TENSOR], "output[1]"),
        ({"a": (TENSOR,)}, "output['a'][0]"),
        (collections.UserDict(a=TENSOR), "output['a']"),
        (collections.deque([TENSOR]), "output[0]"),
        ({TENSOR}, "output{}"),
        (Result(TENSOR), "output.logits"),
        (types.SimpleNamespace(logits=TENSOR), "output.logits"),
        (Plain({"x": TENSOR}), "output.logits['x']"),
        (TENSOR.numpy(), "output"),
    ],
)
def test_tensors_are_found(output, place):
    found = {path: value for path, value in leaves(output) if isinstance(value, torch.Tensor)}
    assert list(found) == [place]
    assert torch.equal(found[place], TENSOR)


@pytest.mark.parametrize("make", [iter, lambda values: (one for one in values), lambda values: map(abs, values)])
def test_iterators_are_used_up(make):
    assert [path for path, _ in leaves(make([TENSOR, 2.0]))] == ["output[0]", "output[1]"]


def test_attributes_beside_the_fields_of_a_data_class_are_found():
    result = Result(TENSOR)
    result.more = TENSOR + 1
    assert [path for path, _ in leaves(result)] == ["output.logits", "output.name", "output.more"]


def test_an_object_that_holds_itself_ends():
    loop = [TENSOR]
    loop.append(loop)
    assert [path for path, _ in leaves(loop)] == ["output[0]"]


def test_numbers_are_kept():
    assert leaves({"count": 3, "share": np.float64(0.5)}) == [
        ("output['count']", 3),
        ("output['share']", np.float64(0.5)),
    ]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ([functools.partial(print, TENSOR)], r"output\[0\] is an object of type functools.partial"),
        (operator.itemgetter(TENSOR), "output is an object of type operator.itemgetter"),
        ({TENSOR, TENSOR + 1}, "output is a set of 2, which has no order"),
        (np.array([object()]), "output is an array of object"),
        ({"f": lambda: TENSOR}, r"output\['f'\] is an object of type builtins.function"),
        (torch.nn.Identity(), "output is an object of type torch.nn.modules.linear.Identity"),
    ],
)
def test_unknown_containers_are_refused(output, message):
    with pytest.raises(UnknownOutputError, match=message):
        leaves(output)


def test_slots_are_not_passed_over():
    class WithDictionary(Slotted):
        pass

    mixed = WithDictionary()
    mixed.more = TENSOR + 1
    assert [path for path, _ in leaves([Slotted()])] == ["output[0].logits"]
    assert {path for path, _ in leaves(mixed)} == {"output.logits", "output.more"}
