"""Curves of sensitivity, masks that come and go without a trace, and rates that meet a target with the least loss."""

import copy

import numpy as np
import pytest
import torch
from mmpretrain.models import MobileNetV2
from torch import nn
from toy_nets import Residual, assert_same_weights, make_classifier, make_task, train_steps

from mmkdprune.models import CifarResNet
from mmkdprune.pruning import compact, complexity, make_pruner, solve_budget
from mmkdprune.pruning.compact_costs import costs_of
from mmkdprune.pruning.sensitivity import (
    Curve,
    RateChooser,
    check_rates,
    lowest_filters,
    predicted_loss,
    pruned_for_a_while,
)
from mmkdprune.pruning.units import zero_filters

SHAPE = (3, 16, 16)


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    pass


class TestCurve:
    def test_measured_points_are_kept_and_joined(self):
        losses = Curve(10, {0: 90.0, 2: 89.0, 4: 85.0, 8: 50.0}).losses()
        np.testing.assert_allclose(losses, [0, 0.5, 1, 3, 5, 13.75, 22.5, 31.25, 40, 65, 90])

    def test_scatter_is_pooled_and_nothing_is_gained(self):
        losses = Curve(8, {0: 90.0, 2: 91.0, 4: 86.0, 6: 88.0}).losses()
        np.testing.assert_allclose(losses[[0, 2, 4, 6, 8]], [0, 0, 3, 3, 90])

    def test_losses_never_fall(self):
        generator = np.random.default_rng(0)
        for _ in range(20):
            numbers = sorted(generator.choice(np.arange(1, 32), 6, replace=False).tolist())
            losses = Curve(32, {0: 70.0, **{number: generator.uniform(0, 75) for number in numbers}}).losses()
            assert losses[0] == 0
            assert len(losses) == 33
            assert (np.diff(losses) >= -1e-12).all()

    def test_a_layer_without_points_is_expected_to_lose_everything(self):
        np.testing.assert_allclose(Curve(4, {0: 60.0}).losses(), [0, 15, 30, 45, 60])

    def test_a_metric_of_which_less_is_better(self):
        np.testing.assert_allclose(Curve(4, {0: -0.5, 2: -1.5}).losses(), [0, 0.5, 1, 1, 1])


@pytest.mark.parametrize("options", [{}, {"coupling": "group"}, {"coupling": "group", "criterion": "fpgm"}], ids=str)
def test_masks_are_those_of_hard_pruning(options):
    model = make_classifier()
    before = copy.deepcopy(model)
    found = lowest_filters(model, [0.5, 0.05, 0.25], **options)
    assert_same_weights(model, before)
    assert found.part == "backbone"
    for rate in (0.25, 0.5):
        pruner = make_pruner(copy.deepcopy(model), "hfp", rate, **options)
        pruner.step(0, 1)
        assert [unit.name for unit in pruner.units] == [unit.name for unit in found.units]
        for unit in pruner.units:
            assert torch.equal(found.masks[unit.name][unit.pruned_count], unit.pruned)
    for unit in found.units:  # 5 % of 10 or 20 filters are none or one
        assert list(found.masks[unit.name]) == ([2, 5] if unit.size == 10 else [1, 5, 10])


def test_outputs_do_not_appear():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    found = lowest_filters(model, [0.5])
    assert [unit.name for unit in found.units] == ["0"]
    assert "output of the model" in found.skipped["3"]


class TestPrunedForAWhile:
    @pytest.fixture
    def trained(self):
        model = make_classifier()
        train_steps(model, torch.optim.SGD(model.parameters(), 0.05), make_task(), 3)
        model.backbone.layer1.eval()  # mixed modes
        return model

    def test_zero_inside_and_as_before_afterwards(self, trained):
        found = lowest_filters(trained, [0.5], coupling="group")
        before = copy.deepcopy(trained)
        modes = [module.training for module in trained.modules()]
        for unit in found.units:
            (mask,) = found.masks[unit.name].values()
            with pruned_for_a_while(trained, found.network, [(unit, mask)]):
                for other in found.units:
                    zero = zero_filters(other, found.network)
                    assert torch.equal(zero, mask if other is unit else torch.zeros_like(zero))
                trained.train()
                trained(make_task()[0])  # new statistics, also of BatchNorms of other layers
            assert_same_weights(trained, before)
            assert [module.training for module in trained.modules()] == modes

    def test_an_error_leaves_nothing_behind(self, trained):
        found = lowest_filters(trained, [0.5])
        before = copy.deepcopy(trained)
        masks = [(unit, mask) for unit in found.units for mask in found.masks[unit.name].values()]
        with pytest.raises(KeyboardInterrupt), pruned_for_a_while(trained, found.network, masks):
            raise KeyboardInterrupt
        assert_same_weights(trained, before)


def chooser_of(model, round_to=1, shape=SHAPE, **options):
    return RateChooser(costs_of(model, round_to, example_input=shape, **options))


def curves_of(chooser, sensitive, dense=90.0):
    """Layers that lose at once when they are pruned, and others that lose a tenth of that."""
    curves = {}
    for unit in chooser.costs.units:
        slope = 40.0 if sensitive(unit.name) else 4.0
        points = {number: dense - slope * number / unit.size for number in range(0, unit.size, unit.size // 8)}
        curves[unit.name] = Curve(unit.size, points)
    return curves


@pytest.mark.parametrize(
    ("build", "size", "step", "target"),
    [
        (lambda: CifarResNet(20), 16, 1, {"macs": 0.5}),
        (lambda: CifarResNet(8), 16, 2, {"params": 0.4}),
        (MobileNetV2, 32, 8, {"macs": 0.5}),
    ],
    ids=["CIFAR ResNet-20", "CIFAR ResNet-8", "MobileNetV2"],
)
def test_the_compact_network_meets_the_target_and_less_is_lost_than_with_one_rate(build, size, step, target):
    torch.manual_seed(0)
    model, shape = build(), (3, size, size)
    before = copy.deepcopy(model)
    chooser = chooser_of(model, step, shape)
    curves = curves_of(chooser, lambda name: "layer1" in name or name.startswith("conv1"))
    budget = chooser.choose(curves, target)
    assert_same_weights(model, before)
    ((quantity, share),) = target.items()
    pruned = copy.deepcopy(model)
    pruner = make_pruner(pruned, "hfp", budget.rate, coupling="group", rate_map=budget.rate_map)
    pruner.step(0, 1)
    pruner.finalize()
    small, _ = compact(pruned, shape, check=False, divisor=step)
    found, dense = complexity(small, shape, rounds=0), complexity(model, shape, rounds=0)
    assert found[quantity] / dense[quantity] == pytest.approx(share, rel=0.02)
    assert all(after % step == 0 for _, after in budget.kept.values())
    uniform = solve_budget(model, target, round_to=step, example_input=shape)
    assert predicted_loss(curves, budget) < predicted_loss(curves, uniform)


def test_sensitive_layers_are_spared():
    chooser = chooser_of(CifarResNet(20))
    budget = chooser.choose(curves_of(chooser, lambda name: name == "layer2.1.conv1"), {"macs": 0.5})
    assert budget.rates["layer2.1.conv1"] < budget.rates["layer2.2.conv1"] / 2


def test_layers_in_which_no_loss_is_seen_are_pruned_alike():
    chooser = chooser_of(CifarResNet(20))
    curves = {unit.name: Curve(unit.size, dict.fromkeys(range(unit.size), 90.0)) for unit in chooser.costs.units}
    budget = chooser.choose(curves, {"params": 0.6}, resolution=0.2)
    inner = [budget.rates[f"layer3.{block}.conv1"] for block in (1, 2)]
    assert inner[0] == pytest.approx(inner[1], abs=1 / 64 + 1e-9)
    assert 0.1 < min(inner) <= max(inner) < 0.9


def test_everything_may_stay():
    chooser = chooser_of(CifarResNet(8))
    budget = chooser.choose(curves_of(chooser, lambda name: False), {"macs": 1.0})
    assert budget.rate == 0
    assert budget.after == budget.before


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"macs": 0.01}, r"target.macs=0.01 cannot be reached: .*% are left"),
        ({"macs": 1.5}, "target.macs"),
        ({"speed": 0.5}, "target"),
    ],
)
def test_bad_targets(target, message):
    chooser = chooser_of(CifarResNet(8), min_keep=4)
    with pytest.raises(ValueError, match=message):
        chooser.choose(curves_of(chooser, lambda name: False), target)


def test_rates():
    assert check_rates("rates", [0.5, 0.1, 0.5]) == [0.1, 0.5]
    for rates, message in (([], "at least one"), ([0.0], "rates"), ([0.5, 1.0], "rates"), ([-0.1], "rates")):
        with pytest.raises(ValueError, match=message):
            lowest_filters(Residual(), rates)
