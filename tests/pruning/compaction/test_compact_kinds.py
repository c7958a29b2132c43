"""Kinds of networks that were compacted wrongly, crashed, or were refused as a whole."""

import collections
import dataclasses
import functools
import types
import warnings

import pytest
import torch
from random_blocks import conv
from torch import nn

from mmkdprune.pruning import CompactionError, FilterPruner, compact

SHAPE = (3, 12, 12)


class Chain(nn.Module):
    """A convolution, a function, and a convolution; the output is chosen by another function."""

    def __init__(self, between=torch.relu, output=lambda features, out: out):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = conv(3, 8), conv(8, 8), conv(8, 4)
        self.between, self.output = between, output

    def forward(self, images):
        features = self.between(self.first(images))
        return self.output(features, self.last(torch.relu(self.second(features))))


def silence(model, *names, number=3):
    for name in names:
        layer = model.get_submodule(name)
        layer.weight.data[:number], layer.bias.data[:number] = 0, 0
    return model.eval()


def images(scale=1.0):
    return scale * torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(5))


def shifted_slice(x):
    x[:, 2:4] += 1
    return x


def through_data(x):
    x.data.add_(0.1)
    return x


def through_view(x):
    x.view(len(x), -1).add_(0.1)
    return x


def copied(x):
    return torch.empty_like(x).copy_(x.sigmoid())


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (lambda x: nn.functional.hardtanh(x, 1e-6, 1.0), r"hardtanh\(0\) is not 0"),
        (lambda x: nn.functional.threshold(x, 0.1, 1.0), r"threshold\(0\) is not 0"),
        (lambda x: x / x.shape[1], "the code behind first counts on their number: operator div"),
        (lambda x: x.reshape(-1, 8, 12, 12) if x.shape[2] == 12 else x, "must count on their number"),
        (lambda x: x.clamp(max=torch.ones(8, 1, 1)), "a tensor of fixed size meets them"),
        (shifted_slice, "a part of their memory is written to|takes them together"),
        (through_data, "a constant is added to zeros"),
        (through_view, "a constant is added to zeros"),
        (copied, r"sigmoid\(0\) is not 0"),
    ],
)
def test_the_layer_is_refused_and_the_rest_goes(between, reason):
    model = silence(Chain(between), "first", "second")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small, plan = compact(model, SHAPE)
    assert (small.first.out_channels, small.second.out_channels) == (8, 5)
    number, why = plan.left["first"]
    assert number == 3
    assert __import__("re").search(reason, why), why
    for scale in (0.1, 1, 30):
        torch.testing.assert_close(model(images(scale)), small(images(scale)))


def test_a_constant_is_warned_of():
    model = silence(Chain(torch.sigmoid), "first", "second")
    with pytest.warns(UserWarning, match=r"3 zero filters of first stay: sigmoid\(0\) is not 0"):
        compact(model, SHAPE)


def test_a_slope_of_zero_is_no_zero():
    model = silence(Chain(nn.PReLU(8, init=0.0), lambda features, out: out.mean((2, 3)).argmax(1)), "second")
    small, plan = compact(model, SHAPE)
    assert plan.kept("first") is None
    assert plan.kept("second") == list(range(3, 8))
    assert torch.equal(model(images(20)), small(images(20)))


@dataclasses.dataclass
class Output:
    features: torch.Tensor
    out: torch.Tensor


class Slotted:
    __slots__ = ("features",)

    def __init__(self, features):
        self.features = features


@pytest.mark.parametrize(
    "output",
    [
        lambda features, out: Output(features, out),
        lambda features, out: types.SimpleNamespace(all=[features, {"out": out}]),
        lambda features, out: collections.UserDict(features=features),
        lambda features, out: (one for one in (features, out)),
        lambda features, out: {features},
        lambda features, out: iter([features, out]),
        lambda features, out: Slotted(features),
        lambda features, out: features.detach().numpy(),
    ],
)
def test_features_that_are_returned_stay(output):
    small, plan = compact(silence(Chain(output=output), "first", "second"), SHAPE)
    assert small.first.out_channels == 8
    assert "outputs of the network" in plan.left["first"][1]
    assert small.second.out_channels == 5


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda features, out: None, "returns no tensor or number"),
        (lambda features, out: "cat", "returns no tensor or number"),
        (lambda features, out: out / 0, "no finite number"),
        (lambda features, out: {features, out}, "a set of 2, which has no order"),
        (
            lambda features, out: {"a": functools.partial(print, out)},
            r"output\['a'\] is an object of type functools.partial",
        ),
    ],
)
def test_outputs_that_cannot_be_compared_are_refused(output, message):
    with pytest.raises(CompactionError, match=message):
        compact(silence(Chain(output=output), "first"), SHAPE)


@pytest.mark.parametrize(
    "output",
    [lambda features, out: out > 0, lambda features, out: float(out.mean()), lambda features, out: out.to_sparse()],
)
def test_outputs_of_other_types(output):
    small, _ = compact(silence(Chain(output=output), "first"), SHAPE)
    assert small.first.out_channels == 5


class Auxiliary(Chain):
    """A head that only training uses."""

    def __init__(self):
        super().__init__()
        self.auxiliary = nn.Conv2d(8, 2, 1)

    def forward(self, images):
        features = torch.relu(self.first(images))
        out = self.last(torch.relu(self.second(features)))
        return (out, self.auxiliary(features)) if self.training else out


def test_a_training_head_follows():
    model = silence(Auxiliary(), "first")
    small, plan = compact(model, SHAPE)
    assert small.auxiliary.in_channels == small.first.out_channels == 5
    assert plan.check["training"]
    for one, other in zip(model.train()(images()), small.train()(images()), strict=True):
        torch.testing.assert_close(one, other)


def test_a_failure_in_training_mode_is_warned_of():
    class Failing(Auxiliary):
        def forward(self, images):
            if self.training:
                raise RuntimeError("no labels")
            return super().forward(images)

    with pytest.warns(UserWarning, match=r"Failing fails in training mode \(RuntimeError: no labels\)") as caught:
        small, plan = compact(silence(Failing(), "second"), SHAPE)
    assert [one.filename for one in caught] == [__file__]
    assert not plan.check["training"]
    assert small.auxiliary.in_channels == 8


def test_scripted_parts_are_left_alone():
    model = Chain(torch.jit.script(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())))
    pruner = FilterPruner(model, rate=0.5, include="second|first", example_input=(1, *SHAPE))
    assert set(pruner.masks) == {"first", "second"}
    assert "TorchScript" in pruner.skipped["between"]
    pruner.finalize()
    small, plan = compact(model.eval(), SHAPE)
    assert (small.first.out_channels, small.second.out_channels) == (8, 4)
    assert plan.left["first"][0] == 4
    assert all(parameter.requires_grad for parameter in small.parameters())
    torch.testing.assert_close(model(images()), small(images()))


class SharedNorm(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.other, self.norm = conv(3, 8), conv(3, 8), nn.BatchNorm2d(8)
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, images):
        return self.last(torch.cat([self.norm(self.one(images)), self.norm(self.other(images))], 1).relu())


@pytest.mark.parametrize("coupling", ["independent", "group"])
def test_layers_that_share_a_norm_share_a_mask(coupling):
    model = SharedNorm()
    pruner = FilterPruner(model, rate=0.5, coupling=coupling, exclude="last", example_input=(1, *SHAPE))
    pruner.finalize()
    zeros = [(layer.weight.flatten(1) == 0).all(1) for layer in (model.one, model.other)]
    assert torch.equal(*zeros)
    assert torch.equal(zeros[0], model.norm.weight == 0)
    small, _ = compact(model.eval(), SHAPE)
    assert small.norm.num_features == small.one.out_channels == small.other.out_channels == 4


def test_a_norm_that_is_also_used_elsewhere_keeps_its_layer():
    class Both(SharedNorm):
        def forward(self, images):
            first = self.norm(self.one(images))
            return self.last(torch.cat([first, self.norm(self.other(images) + first)], 1))

    with pytest.raises(ValueError, match=r"norm behind it is also used on channels without a mask of their own"):
        FilterPruner(Both(), rate=0.5, exclude="last", example_input=(1, *SHAPE))
