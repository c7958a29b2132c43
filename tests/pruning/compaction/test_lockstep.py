"""The first operator at which a compact network differs is named."""

import copy

import pytest
import torch
from torch import nn

from mmkdprune.pruning.compaction.lockstep import Lockstep
from mmkdprune.pruning.compaction.replay import OtherStepsError, Replay
from mmkdprune.pruning.tracing.channel_record import FlowRecord
from mmkdprune.pruning.tracing.channels import follow_channels

IMAGE = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Network(nn.Module):
    """Two convolutions, then what a test asks for."""

    def __init__(self, width=4, tail=lambda network, x: x.mean((2, 3))):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, bias=False)
        self.last = nn.Conv2d(width, 5, 1, bias=False)
        self.tail = tail

    def forward(self, images):
        features = self.first(images)
        return self.tail(self, self.last(features.relu() if self.training is False else features))


def networks(tail=lambda network, x: x.mean((2, 3))):
    """A network whose last filters are zero, its steps, which channels stay, and its compact form."""
    torch.manual_seed(0)
    dense = Network(tail=tail).double().eval()
    dense.first.weight.data[2:] = 0
    record = FlowRecord()
    steps, _ = follow_channels(dense, lambda network, images: network(images), IMAGE, record, values=True)
    gone = next(labels for dim, labels in record.dims.items() if dim == ("first", "out"))[2:]
    ties = {int(b): int(a) for first, second in record.ties for a, b in zip(first, second, strict=True)}
    gone = {*gone.tolist(), *(one for pair in ties.items() for one in pair if set(pair) & set(gone.tolist()))}
    small = Network(2, tail).double().eval()
    small.first.weight.data, small.last.weight.data = dense.first.weight.data[:2], dense.last.weight.data[:, :2]
    return dense, steps, lambda labels: torch.tensor([int(one) not in gone for one in labels]), small


def fault_of(steps, stays, network, images=IMAGE, tolerance=1e-8, lenient=False):
    watch = Lockstep(steps, stays, tolerance, lenient)
    try:
        with torch.no_grad(), watch:
            network(images)
    except Exception as error:
        return watch.failed(error)
    return watch.finish()


def test_an_equal_network_has_no_fault():
    _, steps, stays, small = networks()
    assert fault_of(steps, stays, small) is None


def test_the_layer_that_differs_is_named():
    _, steps, stays, small = networks()
    small.last.weight.data[0, 0] += 1e-3
    fault = fault_of(steps, stays, small)
    assert "operator convolution behind last gives something else" in fault.reason
    assert steps[fault.index].layer == "last"


def test_a_difference_that_the_output_hides_is_found():
    _, steps, stays, small = networks(lambda network, x: (1e6 * x).sigmoid() > 2)
    small.first.weight.data *= 1.5
    assert "behind first" in fault_of(steps, stays, small).reason


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_a_fault(bad):
    _, steps, stays, small = networks()
    small.last.weight.data[0, 0] = bad
    assert "gives something else" in fault_of(steps, stays, small).reason


def test_not_finite_at_the_same_places_is_equal():
    _, steps, stays, small = networks(lambda network, x: x / 0)
    assert fault_of(steps, stays, small) is None


@pytest.mark.parametrize(
    ("change", "lenient", "differs"), [(1e-5, True, ""), (1e-5, False, "exp"), (0.05, True, "first")]
)
def test_in_training_mode_differences_may_grow_but_not_appear(change, lenient, differs):
    _, steps, stays, small = networks(lambda network, x: (300 * x.tanh()).exp())
    small.first.weight.data *= 1 + change
    fault = fault_of(steps, stays, small, tolerance=1e-3, lenient=lenient)
    assert (fault is not None) == bool(differs)
    assert fault is None or differs in fault.reason


def test_rounding_that_has_grown_beyond_all_bounds_leaves_sizes_and_numbers_to_compare():
    """As behind many BatchNorms whose channels hardly vary over the batch."""

    def magnified(network, x):
        for _ in range(6):
            x = (x - x.detach().round(decimals=3)) * 1e3
        return x

    _, steps, stays, small = networks(magnified)
    small.first.weight.data *= 1 + 1e-12
    assert fault_of(steps, stays, small, tolerance=1e-3, lenient=True) is None
    assert fault_of(steps, stays, small, tolerance=1e-3, lenient=False) is not None


def test_numbers_that_depend_on_a_width_are_a_fault():
    _, steps, stays, small = networks(lambda network, x: x / network.first.out_channels)
    assert "counts on their number: operator div gets 2 in place of 4" in fault_of(steps, stays, small).reason


def test_an_error_is_a_fault():
    _, steps, stays, small = networks()
    small.last.weight.data = torch.ones(5, 4, 1, 1, dtype=torch.float64)
    assert "the forward pass fails at operator convolution" in fault_of(steps, stays, small).reason


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        (lambda network, x: x.relu() if network.first.weight.shape[0] > 2 else x, "operator relu behind last is not"),
        (lambda network, x: x.relu() if network.first.weight.shape[0] < 4 else x, "an operator relu more"),
        (lambda network, x: x.relu() if network.first.weight.shape[0] < 4 else x.abs(), "relu takes the place of abs"),
    ],
)
def test_another_number_of_operators_is_a_fault(tail, message):
    _, steps, stays, small = networks(tail)
    assert message in fault_of(steps, stays, small).reason


class TestReplay:
    """Values of a further pass are noted on the labels of the first."""

    @staticmethod
    def replay(network, steps, images):
        owners = {id(network.first.weight): "first", id(network.last.weight): "last"}
        with torch.no_grad(), Replay(steps, owners) as watch:
            network(images)
        return watch.finish()

    def test_same_as_to_follow(self):
        dense, steps, stays, small = networks()
        images = 30 * IMAGE[:1, :, :5, :5]
        followed, _ = follow_channels(dense, lambda network, x: network(x), images, FlowRecord(), values=True)
        replayed = self.replay(dense, steps, images)
        assert len(replayed) == len(followed)
        for one, other in zip(replayed, followed, strict=True):
            assert (one.name, one.numbers, one.layer) == (other.name, other.numbers, other.layer)
            for seen, expected in zip(one.results, other.results, strict=True):
                assert (seen.shape, seen.dim) == (expected.shape, expected.dim)
                if expected.summary is not None:
                    torch.testing.assert_close(seen.summary, expected.summary)
        assert fault_of(replayed, stays, small, images) is None
        assert fault_of(steps, stays, small, images) is not None

    @pytest.mark.parametrize(
        "tail",
        [
            lambda network, x: x.relu() if x.shape[-1] < 4 else x.abs(),
            lambda network, x: x.relu() if x.shape[-1] < 4 else x,
            lambda network, x: x if x.shape[-1] < 4 else x.relu(),
            lambda network, x: x / x.shape[-1],
            lambda network, x: x.flatten(1),
            lambda network, x: nn.functional.conv2d(
                x[:, :4], (network.last if x.shape[-1] < 4 else network.other).weight
            ),
        ],
    )
    def test_other_steps_are_told(self, tail):
        dense, steps, *_ = networks(tail) if "other" not in tail.__code__.co_names else self.other(tail)
        with pytest.raises(OtherStepsError):
            self.replay(dense, steps, IMAGE[..., :5, :5])

    @staticmethod
    def other(tail):
        dense = Network(tail=tail).double().eval()
        dense.other = copy.deepcopy(dense.last)
        steps, _ = follow_channels(dense, lambda network, x: network(x), IMAGE, FlowRecord(), values=True)
        return dense, steps

    def test_a_network_that_swallows_the_error_is_found_out(self):
        def tail(network, x):
            try:
                return x.relu() if x.shape[-1] < 4 else x.abs()
            except OtherStepsError:
                return x.abs()

        dense, steps, *_ = networks(tail)
        with pytest.raises(OtherStepsError):
            self.replay(dense, steps, IMAGE[..., :5, :5])
