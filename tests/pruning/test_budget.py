"""Targets: rates with which the compact network has the share of operations or parameters that was asked for."""

import copy

import pytest
import torch
from mmpretrain.models import VGG, MobileNetV2, ResNet
from torch import nn

from mmkdprune.models import CifarResNet
from mmkdprune.pruning import Budget, compact, complexity, keep_to_target, make_pruner, solve_budget
from mmkdprune.pruning.compact_costs import CompactCosts, images_to_count
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


def clock(network, images):
    """Seconds that a pass takes: as many as there are parameters, and more for more images."""
    return 1e-4 * len(images) * sum(parameter.numel() for parameter in network.parameters())


def test_latency_is_measured_on_compact_networks():
    torch.manual_seed(0)
    model, shape, ran = CifarResNet(20), (3, 16, 16), []

    def timer(network, images):
        ran.append((network, tuple(images.shape)))
        return clock(network, images)

    budget = solve_budget(model, {"latency": 0.5, "batch_size": 4}, round_to=4, example_input=shape, timer=timer)
    assert {images for _, images in ran} == {(4, *shape)}
    assert budget.latency.share == pytest.approx(0.5, rel=0.02)
    # of this clock latency and number of parameters are one
    assert budget.after.params / budget.before.params == pytest.approx(budget.latency.share)
    assert budget.latency.before == pytest.approx(clock(model, torch.zeros(4, 1)))
    assert all(network(torch.zeros(1, *shape))[-1].shape[0] == 1 for network, _ in ran[-2:])
    small, _ = compact(pruned(model, budget, round_to=4), shape, check=False, divisor=4)
    assert complexity(small, shape, rounds=0)["params"] == budget.after.params
    line = budget.line()
    assert " and take " in line
    assert "ms for 4 images of 3 x 16 x 16 on the CPU with 1 thread (" in line
    assert "measured with a spread of 0.0%); " in line


def test_latency_by_default_is_of_32_images():
    shapes = set()

    def timer(network, images):
        shapes.add(images.shape)
        return clock(network, images)

    solve_budget(CifarResNet(8), {"latency": 0.7}, round_to=2, example_input=(3, 8, 8), timer=timer)
    assert shapes == {(32, 3, 8, 8)}


def test_few_networks_are_measured_and_a_spread_is_allowed_for():
    """A clock of one step: some width makes the network fast at once."""
    model, measured = CifarResNet(20), []

    def timer(fast, noise):
        def seconds(network, images):
            measured.append(id(network))
            if network is model:
                return 1.0
            width = network.layer3[0].conv1.out_channels
            return (1 + noise * (measured.count(id(network)) % 5 - 2) / 2) * (1.0 if width > 32 else fast)

        return seconds

    options = {"round_to": 4, "example_input": (3, 16, 16)}
    budget = solve_budget(model, {"latency": 0.5}, timer=timer(0.53, 0.1), **options)
    assert budget.latency.share == pytest.approx(0.53)
    assert budget.latency.spread == pytest.approx(0.1)
    assert len(set(measured)) < 12
    with pytest.raises(ValueError, match=r"target.latency=0.5 cannot be met within 2%: 30.0% are nearest"):
        solve_budget(model, {"latency": 0.5}, timer=timer(0.3, 0.0), **options)
    with pytest.raises(ValueError, match=r"the measured latency differs by 30% between"):
        solve_budget(model, {"latency": 0.5}, timer=timer(0.5, 0.3), **options)


def test_a_budget_is_kept_in_plain_types(tmp_path):
    options = {"round_to": 2, "example_input": (3, 8, 8), "timer": clock}
    for target in ({"macs": 0.6}, {"latency": 0.6, "batch_size": 2}):
        budget = solve_budget(CifarResNet(8), target, **options)
        torch.save(budget.state_dict(), tmp_path / "budget.pth")
        assert Budget.from_state(torch.load(tmp_path / "budget.pth", weights_only=True)) == budget
    with pytest.raises(ValueError, match="the budget in the checkpoint"):
        Budget.from_state({"rate": 0.4})


@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.parametrize("target", [{"macs": 0.5}, {"params": 0.4}], ids=["macs", "params"])
@pytest.mark.parametrize("method", ["sfp", "ghfp-asrfp"])
def test_a_global_ranking_keeps_to_a_target(method, target, step):
    torch.manual_seed(0)
    model, shape = CifarResNet(20), (3, 16, 16)
    with torch.no_grad():
        for index, module in enumerate(one for one in model.modules() if isinstance(one, nn.Conv2d)):
            # filters of unequal size, in every layer in another way
            module.weight *= torch.linspace(1, 1 + index, len(module.weight))[:, None, None, None]
    budget = solve_budget(model, target, round_to=step, example_input=shape)
    options = {"ranking": "global", "coupling": "group", "round_to": step}
    pruner = make_pruner(model, method, budget.rate, **options)
    keep_to_target(pruner, model, target, shape)
    dense = complexity(model, shape, rounds=0)
    numbers = []
    for t in range(5):
        pruner.step(t, 5)
        numbers.append(pruner.report()["pruned"])
    pruner.finalize()
    assert pruner.report()["pruned"] == numbers[-1]
    assert numbers == sorted(numbers)
    found = complexity(compact(model, shape, check=False, divisor=step)[0], shape, rounds=0)
    ((quantity, share),) = target.items()
    assert found[quantity] / dense[quantity] == pytest.approx(share, rel=0.02)
    shares = {round(unit.pruned_count / unit.size, 2) for unit in pruner.units}
    assert len(shares) > 1  # layers lose unequally


def test_a_global_ranking_cannot_keep_to_a_latency_or_without_groups():
    model = CifarResNet(8)
    pruner = make_pruner(model, "sfp", 0.4, ranking="global", coupling="group")
    with pytest.raises(ValueError, match=r"target\.latency is measured before training"):
        keep_to_target(pruner, model, {"latency": 0.5})
    with pytest.raises(ValueError, match="ranking='global' and coupling='group'"):
        keep_to_target(make_pruner(model, "sfp", 0.4), model, {"macs": 0.5})


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
        ({"target": {"macs": 0.5, "batch_size": 4}}, r"target.batch_size is for a target of latency"),
        ({"target": {"latency": 0.5, "batch_size": 0}}, r"target.batch_size"),
        ({"target": {"batch_size": 4}}, "target takes one of macs, params, latency"),
        ({"target": {"latency": 0.01}, "timer": clock}, r"target.latency=0.01 cannot be reached: .*% are left when"),
        ({"target": {"macs": 0.01}, "min_keep": 4}, r"target.macs=0.01 cannot be reached: .*% are left when"),
        ({"target": {"macs": 0.965}, "round_to": 32}, r"cannot be met within 2%: .* are nearest.*round_to=32"),
    ],
)
def test_bad_targets(options, message):
    with pytest.raises(ValueError, match=message):
        solve_budget(CifarResNet(8), **options, example_input=(3, 16, 16))


def test_images_are_those_that_the_pruner_has_followed():
    """The largest usual size on which the network runs, with the channels that it takes; one image."""
    for channels in (1, 3):
        network = nn.Sequential(nn.Conv2d(channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        pruner = FilterPruner(network, 0.0, coupling="group", prune_outputs=True)
        assert images_to_count(pruner, network, None).shape == (1, channels, 224, 224)
        followed = FilterPruner(network, 0.0, example_input=(channels, 20, 30), prune_outputs=True)
        assert images_to_count(followed, network, None).shape == (1, channels, 20, 30)
        assert images_to_count(pruner, network, (channels, 20, 30)).shape == (1, channels, 20, 30)
    flat = nn.Sequential(network[0], nn.ReLU(), network[3], nn.Flatten(), nn.Linear(8 * 28 * 28, 2))
    assert images_to_count(FilterPruner(flat, 0.0), flat, None).shape == (1, 3, 32, 32)
