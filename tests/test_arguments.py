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

from mmkdprune import datasets, evaluation, pruning, registry
from mmkdprune.arguments import ArgumentError, checked
from mmkdprune.engine.hooks import FilterPruningHook
from mmkdprune.models import backbones, heads, losses

PACKAGES = ("mmkdprune.pruning", "mmkdprune.models.losses", "mmkdprune.datasets", "mmkdprune.evaluation")
METHODS = {"Pruner": ("step", "enforce", "attach_mirror", "load_state_dict", "counts")}
# Results and errors, which nobody makes; and a function with a check of its own, which says what to do.
NOT_CHECKED = ("BatchedLogisticRegression", "Budget", "CompactionError", "PlanError", "batched_collate")


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


# -- values of the right type that make no sense -----------------------------------------------------------------------


def plain_network():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))


def pruner(rate=0.5, **options):
    return pruning.FilterPruner(plain_network(), rate, **options)


def load(**changes):
    one = pruner()
    one.load_state_dict({**one.state_dict(), **changes})


FEATURES, LABELS = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 4
FEATURE_SET = evaluation.FeatureSet(FEATURES, LABELS)
DIGITS = {"type": "mmkdprune.Digits"}
NONSENSE = [
    (lambda: pruner(sticky="no"), "sticky must be True or False, got 'no'"),
    (lambda: pruner(include=3), "include must be .*, got 3"),
    (lambda: pruner(rate_map=[1]), r"rate_map must be .*, got \[1\]"),
    (lambda: pruner(rate_schedule="x"), "rate_schedule must be a callable or None, got 'x'"),
    (lambda: pruner(rate_schedule=lambda t, total: "x"), r"rate_schedule must return a number, .* is 'x'"),
    (lambda: pruner(rate_schedule=lambda: 0.5), r"rate_schedule is called as rate_schedule\(t, total\), which fails"),
    (lambda: pruner(example_input=(3,)), r"example_input must be images .*, got \(3,\)"),
    (lambda: pruner(example_input=torch.zeros(3)), r"example_input .*, got a tensor of shape \(3,\)"),
    (lambda: pruner(example_input=(0, 3, 8, 8)), r"example_input .*, got \(0, 3, 8, 8\)"),
    (lambda: pruner(example_input=(1, 5, 8, 8)), r"example_input=\(1, 5, 8, 8\) is not what the network reads"),
    (lambda: pruner(rate_map={"0": 2.0}), "2"),
    (lambda: pruning.FilterPruner(None, 0.5), "model must be an nn.Module, got None"),
    (lambda: pruner().load_state_dict({}), r"state\['settings'\] .* got nothing"),
    (lambda: load(settings=3), r"state\['settings'\] .* got 3"),
    (lambda: load(units={"0": {"pruned": 3}}), r"state\['units'\]\['0'\]"),
    (lambda: load(history={}), r"state\['history'\] .* lacks sizes"),
    (lambda: load(position=3), r"state\['position'\] .* got 3"),
    (lambda: load(finalized=3), r"state\['finalized'\] .* got 3"),
    (lambda: pruner().enforce([3]), r"optimizer must be an Optimizer, or several, got \[3\]"),
    (lambda: pruning.make_pruner(plain_network(), "sfp", 0.5, pruner=int), "pruner must be a class of pruners"),
    (lambda: pruning.complexity(plain_network(), (5, 8, 8), 0), r"input_shape=\(1, 5, 8, 8\) is not what"),
    (lambda: pruning.complexity(nn.ReLU(), (3, 8, 8), 0), "this ReLU has no parameters"),
    (lambda: pruning.paper_flops(plain_network(), 0.5, (3, 8, 8), include=3), "include takes regular .*, got 3"),
    (lambda: pruning.paper_flops(plain_network(), 0.5, (3, 8, 8), other=3), "must be one of .*, got 'other'"),
    (lambda: pruning.compact(plain_network(), (5, 8, 8)), r"images of shape \(1, 5, 8, 8\) .*give an example_input"),
    (lambda: pruning.make_report({}), "state is not what .* lacks settings"),
    (lambda: pruning.plot_report({"settings": {}, "steps": []}, "x.png"), r"report\['steps'\] .* got \[\]"),
    (lambda: pruning.save_report({}, "nowhere"), "report is not what .* lacks settings, steps"),
    (lambda: pruning.report_from_scalars([{"pruning/rate": 1}]), "rows is not what .* lacks pruning/t"),
    (lambda: pruning.apply_plan(plain_network(), pruning.Plan({}, {})), "made for another architecture"),
    (lambda: evaluation.fit_linear(FEATURE_SET, FEATURE_SET, lr=0.0), "lr must be .*, got 0.0"),
    (lambda: evaluation.fit_linear(FEATURE_SET, FEATURE_SET, lr=math.nan), "lr must be .*, got nan"),
    (lambda: evaluation.fit_linear(FEATURE_SET, FEATURE_SET, lr=1e300), "lr must be .*, got 1e\\+300"),
    (lambda: evaluation.fit_linear(FEATURE_SET, FEATURE_SET, batch_size=0), "batch_size must be .*, got 0"),
    (lambda: evaluation.fit_linear(FEATURE_SET, FEATURE_SET, epochs=0), "epochs must be .*, got 0"),
    (lambda: evaluation.FeatureSet(FEATURES, LABELS[:3]), r"labels \(N,\), got \(20, 4\) and \(3,\)"),
    (lambda: evaluation.knn_scores(FEATURES, LABELS, FEATURES[:, :2], 4), r"queries .* got .*\(20, 2\)"),
    (lambda: evaluation.knn_scores(FEATURES, LABELS[:3], FEATURES, 4), r"bank_labels .*\(3,\)"),
    (lambda: evaluation.topk_hits(FEATURES, LABELS, ()), r"topk .*, got \(\)"),
    (lambda: evaluation.topk_accuracy(FEATURES, LABELS, 0), "number must be .*, got 0"),
    (lambda: evaluation.topk_accuracy(FEATURES, LABELS[:3]), r"target \(Q,\), got .*\(3,\)"),
    (lambda: evaluation.confidence_interval(np.array([])), r"accuracies .* got shape \(0,\)"),
    (lambda: evaluation.FewShotAccuracy(num_ways=()), r"num_ways .*, got \[\]"),
    (lambda: evaluation.FewShotAccuracy(inverse_penalty=0.0), "inverse_penalty must be .*, got 0.0"),
    (lambda: evaluation.fit_logistic_regression(FEATURES, LABELS, 4), r"features \(E, n, D\) .*\(20, 4\)"),
    (lambda: evaluation.fit_logistic_regression(FEATURES[None], LABELS[None], 2), r"0 \.\.\. 1, found 0 \.\.\. 3"),
    (lambda: evaluation.make_preprocessor({"mean": [0.0], "std": [0.0]}), r"std must be .*, got \[0.0\]"),
    (lambda: evaluation.make_preprocessor({"std": [1.0]}), "needs mean and std"),
    (lambda: evaluation.extract_features(nn.Conv2d(3, 3, 1), [{}]), "dataloader must give batches"),
    (lambda: evaluation.KNNEvaluationHook({}, {"dataset": 1}), r"train_dataloader must be .*, got \{\}"),
    (lambda: heads.AggregationHead(0, 2), "in_channels must be .*, got 0"),
    (lambda: heads.LayerWeightNetwork([4, 0], 2), "in_channels must be .*, got 0"),
    (lambda: heads.ProjectionHead(4, 4, -1), "hidden_channels must be .*, got -1"),
    (lambda: heads.SelfTeacherHead(4, 2, 0), "num_classes must be .*, got 0"),
    (lambda: heads.DiscriminatorHead(0), "in_channels must be .*, got 0"),
    (lambda: losses.interpolate_pairs(FEATURES, 7.0, torch.arange(20)), r"lam must be .*, got 7\.0"),
    (lambda: losses.interpolate_pairs(FEATURES, 0.5, torch.arange(20) + 9), r"perm must hold rows 0 \.\.\. 19"),
    (lambda: losses.interpolate_pairs(FEATURES, 0.5, torch.arange(3)), r"perm must be .* shape \(3,\)"),
    (lambda: losses.interpolate_pairs(FEATURES, 0.5, torch.arange(20), 9), "dim must be .*, got 9"),
    (lambda: datasets.StratifiedSubset(DIGITS, 0.5, -1), "seed must be .*, got -1"),
    (lambda: datasets.ClassSubset({}, 2), r"dataset must be .*, got \{\}"),
    (lambda: datasets.CIFAR10("x", "validation"), "split must be .*, got 'validation'"),
    (lambda: backbones.CifarResNet(20, out_indices=(-9,)), r"out_indices must be .*, got \(-9,\)"),
    (lambda: backbones.CifarResNet(20, out_indices=()), r"out_indices must be .*, got \(\)"),
    (lambda: backbones.CifarResNet(20, strides=(0, 2, 2)), r"strides must be .*, got \(0, 2, 2\)"),
    (lambda: backbones.CifarResNet(20, num_stages=9), "num_stages must be .*, got 9"),
    (lambda: backbones.CifarResNet(20, frozen_stages=9), "frozen_stages must be .*, got 9"),
    (lambda: backbones.CifarResNet(20, in_channels=0), "in_channels must be .*, got 0"),
    (lambda: backbones.CifarVGG(13, in_channels=0), "in_channels must be .*, got 0"),
    (lambda: backbones.CifarVGG(13, out_indices=(-9,)), r"-9"),
    (lambda: backbones.CompactBackbone(3), "backbone must be .*, got 3"),
    (lambda: FilterPruningHook({"method": "sfp", "rate": 0.5}, interval=0), "interval must be .*, got 0"),
]


@pytest.mark.parametrize("number", range(len(NONSENSE)))
def test_nonsense_is_named(number):
    call, message = NONSENSE[number]
    with pytest.raises(ValueError, match=message) as refused:
        call()
    innermost = refused.traceback[-1]
    assert "mmkdprune" in str(innermost.path)
    assert "raise" in str(innermost.statement)
