"""One mechanism hands every operator of a pass to those who watch it."""

import torch
from torch import nn
from torch.nn import functional as F

from mmkdprune.pruning.tracing.watcher import UNTOUCHED, Follower, Watcher


class Noting(Watcher):
    def __init__(self):
        super().__init__()
        self.calls, self.written = [], []

    def watch(self, call):
        self.written.append([id(tensor) for tensor in call.written()])
        call.run()
        self.calls.append(call)


def noted(function, *tensors):
    with torch.no_grad(), Noting() as watcher:
        function(*tensors)
    return watcher


def test_arguments_are_in_their_positions():
    images = torch.arange(24.0).reshape(1, 2, 3, 4)
    (call,) = noted(lambda x: torch.ops.aten.sum.dim_IntList(x, dim=[2, 3], keepdim=True), images).calls
    assert (call.name, call.args[1:], call.kwargs) == ("sum", ([2, 3], True), {})
    assert call.first is images
    assert call.result.flatten().tolist() == [66.0, 210.0]
    # what lies between is filled in, what is by keyword alone stays
    (call,) = noted(lambda x: torch.ops.aten.mean.dim(x, [1], keepdim=True, dtype=torch.float64), images).calls
    assert (call.args[1:], call.kwargs) == (([1], True), {"dtype": torch.float64})
    (call,) = noted(lambda x: torch.ops.aten.slice.Tensor(x, end=1), images).calls
    assert call.args[1:] == (0, None, 1)
    assert call.result.shape == (1, 2, 3, 4)


def test_several_tensors():
    first, second = torch.zeros(2, 3), torch.ones(2, 3)
    (call,) = noted(lambda *parts: torch.ops.aten.cat.default(list(parts), 1), first, second).calls
    assert [id(one) for one in call.tensors] == [id(first), id(second)]
    assert call.first is None
    (call,) = noted(lambda x: torch.ops.aten.max.dim(x, 1), second).calls
    assert [tuple(one.shape) for one in call.results] == [(2,), (2,)]
    assert call.result is call.results[0]


def test_what_is_written_to():
    target, other = torch.zeros(3), torch.ones(3)
    watcher = noted(lambda x, y: x.add_(y), target, other)
    assert [call.name for call in watcher.calls] == ["add"]
    assert watcher.written == [[id(target)]]
    assert target.tolist() == [1, 1, 1]
    assert noted(torch.add, target, other).written == [[]]
    statistics = torch.zeros(2), torch.ones(2)
    watcher = noted(lambda x: F.batch_norm(x, *statistics, training=False), torch.zeros(1, 2, 3, 3))
    assert watcher.written[-1] == []


class Counting(Follower[int]):
    """Knows of each tensor how many operators lie between it and the input."""

    def watch(self, call):
        call.run()
        if self.is_met(call):
            followed = self.followed(call, self.known(call.first))
            if followed is not UNTOUCHED:
                self.set(call.result, followed)

    def one_more(self, call, known):
        return known + 1

    def either(self, call, known):
        return max(self.known(value) or 0 for value in call.tensors) + 1

    def nothing_new(self, call, known):
        return UNTOUCHED

    def unknown(self, call):
        return None

    rules = {"add": either}
    rules_of_one = {"relu": one_more, "neg": nothing_new}


def test_rules_are_chosen_by_operator():
    images, constant = torch.ones(2), torch.ones(2)
    with torch.no_grad(), Counting(nn.Identity()) as follower:
        follower.set(images, 3)
        after = torch.relu(images)
        second = constant + after  # its rule looks at more than the first argument
        untouched = torch.neg(second)
        lost = torch.exp(second)
        lost_too = torch.relu(lost)  # nothing is known of its first argument
        free = torch.relu(constant)
    assert [follower.known(value) for value in (images, after, second)] == [3, 4, 5]
    assert [follower.known(value) for value in (untouched, lost, lost_too, free, constant)] == [None] * 5
    assert [follower.is_lost(value) for value in (untouched, lost, lost_too, free)] == [False, True, True, False]
