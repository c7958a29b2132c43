"""Targets: rates with which the compact network has the share of operations or parameters that was asked for."""

import copy

import pytest
import torch
from mmpretrain.models import VGG, MobileNetV2, ResNet
from torch import nn

from mmkdprune.models import CifarResNet
from mmkdprune.pruning import Budget, compact, complexity, make_pruner, solve_budget
from mmkdprune.pruning.budget import CompactCosts
from mmkdprune.pruning.filter_pruner import FilterPruner

NETWORKS = {
    "ResNet-18": (lambda: ResNet(18), 64, 8),
    "ResNet-50": (lambda: ResNet(50), 64, 8),
    "MobileNetV2": (MobileNetV2, 64, 8),
    "VGG-11": (lambda: VGG(11, norm_cfg={"type": "BN"}), 64, 16),
    "CIFAR ResNet-20": (lambda: CifarResNet(20), 32, 4),
}


def pruned(model: nn.Module, budget: Budget, method: str = "sfp", **options) -> nn.Module:
    model = copy.deepcopy(model)
    options = {"coupling": "group", "rate_map": budget.rate_map, **options}
    pruner = make_pruner(model, method, budget.rate, **options)
    pruner.step(0, 1)
    pruner.finalize()
    return model


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    pass


@pytest.mark.parametrize("target", [{"macs": 0.5}, {"params": 0.3}], ids=["half the MACs", "30 % of the parameters"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_compact_network_meets_the_target(name, target):
    build, size, step = NETWORKS[name]
    torch.manual_seed(0)
    model, shape = build(), (3, size, size)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):  # as after training: shifts are no zeros
                module.bias.uniform_(-1, 1)
    before = copy.deepcopy(model.state_dict())
    budget = solve_budget(model, target, round_to=step, example_input=shape)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    small, plan = compact(pruned(model, budget, round_to=step), shape, check=False, divisor=step)
    found, dense = complexity(small, shape, rounds=0), complexity(model, shape, rounds=0)
    ((quantity, share),) = target.items()
    assert found[quantity] / dense[quantity] == pytest.approx(share, rel=0.02)
    assert (found["macs"], found["params"]) == (budget.after.macs, budget.after.params)
    assert (dense["macs"], dense["params"]) == (budget.before.macs, budget.before.params)
    for layer, (_, kept) in budget.kept.items():
        assert kept % step == 0
        assert len(plan.kept(layer) or [0] * kept) == kept


def test_costs_by_brute_force():
    """Any numbers of masked filters, not only those of a solution."""
    torch.manual_seed(0)
    model = CifarResNet(8)
    pruner = FilterPruner(model, 0.0, coupling="group")
    costs = CompactCosts(pruner, torch.zeros(1, 3, 16, 16), divisor=1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        shares = torch.rand(len(pruner.units), generator=generator)
        masked = (shares * torch.from_numpy(costs.most)).long().numpy()
        network = copy.deepcopy(model)
        for unit, number in zip(pruner.units, masked.tolist(), strict=True):
            for name in unit.members:
                network.get_submodule(name).weight.data[:number] = 0
            for slot in unit.slots:
                if slot.is_norm and slot.attribute in ("weight", "bias"):
                    getattr(network.get_submodule(slot.path), slot.attribute).data[:number] = 0
        small, _ = compact(network, (3, 16, 16), check=False)
        found = complexity(small, (3, 16, 16), rounds=0)
        assert tuple(costs.of(masked)) == (found["macs"], found["params"])


def test_everything_may_stay():
    budget = solve_budget(CifarResNet(8), {"macs": 1.0}, round_to=1, example_input=(3, 16, 16))
    assert budget.rate == 0
    assert budget.after == budget.before


def test_what_is_excluded_stays():
    model = CifarResNet(20)
    budget = solve_budget(model, {"macs": 0.7}, round_to=1, example_input=(3, 32, 32), exclude="layer1")
    assert not [name for name, rate in budget.rates.items() if "layer1" in name and rate]
    assert budget.after.macs / budget.before.macs == pytest.approx(0.7, rel=0.02)


def test_line():
    line = solve_budget(CifarResNet(20), {"macs": 0.5}, round_to=4, example_input=(3, 32, 32)).line()
    assert line.startswith("the model, compact, will have ")
    assert "% of 40.81 M)" in line
    assert "of filters go" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": {"macs": 0}}, r"target.macs"),
        ({"target": {"macs": 1.5}}, r"target.macs"),
        ({"target": {"speed": 0.5}}, "target"),
        ({"target": {"macs": 0.5, "params": 0.5}}, "target takes one of macs, params"),
        ({"target": {"macs": 0.5}, "round_to": 128}, r"round_to=128 is larger than every layer.*at most 64"),
        ({"target": {"macs": 0.01}, "min_keep": 4}, r"target.macs=0.01 cannot be reached: .*% are left when"),
        ({"target": {"macs": 0.965}, "round_to": 32}, r"cannot be met within 2%: .* are nearest.*round_to=32"),
    ],
)
def test_bad_targets(options, message):
    with pytest.raises(ValueError, match=message):
        solve_budget(CifarResNet(8), **options, example_input=(3, 16, 16))
