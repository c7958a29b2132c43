import copy
import math

import pytest
import torch
from torch import nn
from toy_nets import accuracy, assert_same_weights, make_classifier, make_task, train_pruned, train_steps

from mmkdprune.pruning import METHODS, ConstantDecay, ConstantHardShare, WeightPruner, make_pruner
from mmkdprune.pruning.weight_pruner import smallest, two_smallest_of_four

LAYERS = ["layer1.conv1", "layer1.conv2", "layer2.conv1", "layer2.conv2", "layer2.downsample.0"]
FILTER_METHODS = [method for method in METHODS if method != "fpgm"]


def weight(model, name):
    return model.backbone.get_submodule(name).weight


def test_step_by_brute_force():
    model, task = make_classifier(), make_task()
    pruner = WeightPruner(
        model, 0.4, decay_schedule=ConstantDecay(0.25), hard_schedule=ConstantHardShare(0.5), sticky=False
    )
    assert list(pruner.masks) == LAYERS
    assert pruner.skipped == {"conv1": "prune_first=False"}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for t in range(3):
        train_steps(model, optimizer, task, 2)
        before = {name: weight(model, name).detach().clone() for name in LAYERS}
        pruner.step(t, 100)
        for name, old in before.items():
            flat = old.flatten()
            order = sorted(range(len(flat)), key=lambda index, flat=flat: (abs(flat[index].item()), index))
            expected = flat.clone()
            pruned, hard = math.floor(len(flat) * 0.4 + 1e-9), math.floor(len(flat) * 0.2 + 1e-9)
            expected[order[:pruned]] *= 0.25
            expected[order[:hard]] = 0
            assert torch.equal(weight(model, name).flatten(), expected)
            assert int(pruner.masks[name].sum()) == pruned
            assert int(pruner.hard_masks[name].sum()) == hard


@pytest.mark.parametrize("method", FILTER_METHODS)
def test_every_method_ends_exactly_sparse(method):
    task, model = make_task(size=128), make_classifier()
    pruner = make_pruner(model, method, 0.6, pruner=WeightPruner)
    reports = train_pruned(model, pruner, task, 10, 8)
    pruner.finalize()
    for name in LAYERS:
        assert int((weight(model, name) == 0).sum()) == math.floor(weight(model, name).numel() * 0.6)
    assert reports[-1]["zero"] == sum(math.floor(weight(model, name).numel() * 0.6) for name in LAYERS)
    train_steps(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), task, 16, pruner)
    assert accuracy(model, task) > 0.9
    assert all(torch.equal(weight(model, name) == 0, mask) for name, mask in pruner.masks.items())


def test_global_ranking():
    model = make_classifier()
    with torch.no_grad():
        weight(model, "layer1.conv1").mul_(0.01)
    pruner = WeightPruner(model, 0.3, ranking="global", hard_schedule=ConstantHardShare(1.0))
    total = sum(weight(model, name).numel() for name in LAYERS)
    every = torch.cat([weight(model, name).detach().flatten() for name in LAYERS]).abs()
    limit = every.sort().values[math.floor(total * 0.3)]
    pruner.step(0, 10)
    counts = {name: int(mask.sum()) for name, mask in pruner.masks.items()}
    assert sum(counts.values()) == math.floor(total * 0.3)
    assert counts["layer1.conv1"] == weight(model, "layer1.conv1").numel()
    assert all(weight(model, name)[~mask].abs().min() >= limit for name, mask in pruner.masks.items() if not mask.all())
    report = pruner.report()
    assert report["zero"] == report["pruned"] == report["hard"] == math.floor(total * 0.3)
    pruner.step(1, 10)
    assert {name: int(mask.sum()) for name, mask in pruner.masks.items()} == counts


@pytest.mark.parametrize("method", ["hfp", "sfp", "ghfp-asrfp"])
def test_two_of_four(method):
    model, task = make_classifier(width=8), make_task()
    pruner = make_pruner(model, method, 0.5, pruner=WeightPruner, pattern="2:4")
    train_pruned(model, pruner, task, 6, 4)
    pruner.finalize()
    for name in pruner.masks:
        groups = (weight(model, name) == 0).movedim(1, -1).unflatten(-1, (-1, 4))
        assert (groups.sum(-1) == 2).all(), name
    assert pruner.skipped == {"conv1": "prune_first=False"}


def test_two_of_four_skips_layers_that_cannot():
    pruner = WeightPruner(make_classifier(width=10), 0.5, pattern="2:4")
    assert pruner.skipped["layer1.conv1"] == "10 input channels are no multiple of 4"
    assert list(pruner.masks) == ["layer2.conv2"]  # 20 inputs


def test_two_smallest_of_four():
    scores = torch.tensor([[4.0, 1, 3, 2, 0, 0, 0, 5]])
    assert two_smallest_of_four(scores).tolist() == [[False, True, False, True, True, True, False, False]]


def test_exact_number_among_ties():
    scores = torch.tensor([[1.0, 0.0, 1.0], [1.0, 2.0, 1.0]])
    for number in range(7):
        assert int(smallest(scores, number).sum()) == number
    assert smallest(scores, 3).tolist() == [[True, True, True], [False, False, False]]


def test_building_a_mask_changes_nothing():
    scores = torch.randn(4, 5)
    before = scores.clone()
    smallest(scores, 7)
    assert torch.equal(scores, before)
    model = make_classifier()
    before = copy.deepcopy(model)
    pruner = WeightPruner(model, 0.4, rate_schedule=lambda t, total: 0.4 if t == total - 1 else 0.0)
    pruner.step(0, 10)
    assert_same_weights(model, before)


def test_linear_layers_and_the_last_one():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    assert list(WeightPruner(model, 0.5).masks) == ["2"]
    assert list(WeightPruner(model, 0.5, prune_first=True, prune_last=True).masks) == ["0", "2", "4"]
    assert list(WeightPruner(model, 0.5, include="4").masks) == ["4"]
    assert list(WeightPruner(model, 0.5, prune_last=True, exclude="2").masks) == ["4"]


def test_state_continues_bit_for_bit():
    _, pruner = make_classifier(), None
    model = make_classifier()
    pruner = make_pruner(model, "ghfp-asrfp", 0.5, pruner=WeightPruner)
    train_pruned(model, pruner, make_task(), 3, 3)
    other = make_pruner(copy.deepcopy(model), "ghfp-asrfp", 0.5, pruner=WeightPruner)
    other.load_state_dict(pruner.state_dict())
    for one in (pruner, other):
        one.step(3, 6)
    assert all(torch.equal(mask, other.masks[name]) for name, mask in pruner.masks.items())
    different = make_pruner(copy.deepcopy(model), "ghfp-asrfp", 0.5, pruner=WeightPruner, ranking="global")
    with pytest.raises(ValueError, match=r"pruner.ranking is 'global' here but was 'layer'"):
        different.load_state_dict(pruner.state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rate": 1.0}, "rate must be a number"),
        ({"rate": 1 - 1e-15}, r"leaves no weight in layer1.conv1 \(900 weights\)"),
        ({"ranking": "all"}, "ranking must be one of 'layer', 'global'"),
        ({"pattern": "1:4"}, "pattern must be one of '2:4'"),
        ({"pattern": "2:4"}, r"needs rate=0.5 and ranking='layer', got rate=0.4"),
        ({"include": "fc"}, "include: 'fc' matches none"),
        ({"exclude": "."}, "no Conv2d or Linear weights are left to prune in backbone"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(ValueError, match=message):
        WeightPruner(make_classifier(), **{"rate": 0.4, **arguments})


def test_fpgm_is_no_criterion_for_weights():
    with pytest.raises(ValueError, match="has no criterion, which method='fpgm'"):
        make_pruner(make_classifier(), "fpgm", 0.4, pruner=WeightPruner)
