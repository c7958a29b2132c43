"""The life cycle of a pruner: freezing, coming back, the end, saving and resuming, and what a step may not do."""

import copy
import dataclasses
import functools
import itertools
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toy_nets import (
    LAYERS,
    accuracy,
    assert_same_weights,
    indices,
    make_classifier,
    make_task,
    rows,
    train_pruned,
    train_steps,
    trained,
)

from mmkdprune.pruning import (
    METHODS,
    AsymptoticRate,
    ConstantHardShare,
    ExpDecay,
    FilterPruner,
    make_pruner,
)
from mmkdprune.pruning.presets import ends_hard

OPTIMIZERS = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4),
    "adam": lambda model: torch.optim.Adam(model.parameters(), lr=1e-2, amsgrad=True),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=1e-2),
}


@pytest.mark.parametrize("options", [{}, {"clip": 0.5}, {"accumulate": 2}], ids=["plain", "clip", "accumulate"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_hard_filters_stay_zero_and_the_hard_set_grows(optimizer, options):
    model, seen = make_classifier(), []
    pruner = make_pruner(model, "ghfp-asrfp", 0.4)
    optimizer = OPTIMIZERS[optimizer](model)

    def check():
        for name, hard in pruner.hard_masks.items():
            layer = model.backbone.get_submodule(name)
            norm = model.backbone.get_submodule(name.replace("conv", "bn"))
            for tensor in (layer.weight, norm.weight, norm.bias):
                assert not tensor[hard].any()
                for value in optimizer.state[tensor].values():
                    assert value.ndim == 0 or not value[hard].any()
        seen.append({name: indices(hard) for name, hard in pruner.hard_masks.items()})

    train_pruned(model, pruner, make_task(), 6, 4, optimizer=optimizer, after=check, **options)
    for name in LAYERS:
        assert all(before[name] <= now[name] for before, now in itertools.pairwise(seen))
        assert 0 < len(seen[8][name]) < len(seen[-1][name])
        assert int(pruner.hard_masks[name].sum()) == math.floor(len(model.backbone.get_submodule(name).weight) * 0.4)
    assert len(seen) == 24


@pytest.mark.parametrize(("optimizer", "moves"), [("momentum", True), ("adam", True), ("sgd", False)])
def test_masking_gradients_alone_does_not_freeze(optimizer, moves):
    """What the authors' code does; momentum goes on moving the zeroed filters. Hence ``freeze='post_step'``."""
    model, task = make_classifier(), make_task()
    optimizer = {
        "momentum": lambda: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True),
        "adam": lambda: torch.optim.Adam(model.parameters(), lr=1e-2),
        "sgd": lambda: torch.optim.SGD(model.parameters(), lr=0.05),
    }[optimizer]()
    pruner = make_pruner(model, "hfp", 0.4, freeze="grad")
    train_steps(model, optimizer, task, 5, pruner)
    pruner.step(0, 10)
    train_steps(model, optimizer, task, 5, pruner)
    left = max(
        model.backbone.get_submodule(name).weight[hard].abs().max().item() for name, hard in pruner.masks.items()
    )
    assert (left > 1e-4) == moves
    if not moves:
        assert left == 0
    # Gradients are masked where they arise: before clipping sees them.
    optimizer.zero_grad()
    F.cross_entropy(model(task[0]), task[1]).backward()
    for name, hard in pruner.hard_masks.items():
        gradient = model.backbone.get_submodule(name).weight.grad
        assert not gradient[hard].any()
        assert gradient[~hard].any()
    pruner.finalize()
    assert not any(model.backbone.get_submodule(name).weight[hard].any() for name, hard in pruner.masks.items())
    pruner.remove_gradient_hooks()
    copy.deepcopy(model)
    pickle.dumps(model.state_dict())


def test_optimizer_state_of_soft_filters_is_left_alone():
    """It is what brings them back."""
    model, task = make_classifier(), make_task()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    pruner = make_pruner(model, "ghfp-sfp", 0.4, hard_schedule=ConstantHardShare(0.5))
    train_steps(model, optimizer, task, 3, pruner)
    before = copy.deepcopy(optimizer.state_dict()["state"])
    pruner.step(0, 10)
    pruner.enforce(optimizer)
    hard = {id(model.backbone.get_submodule(name).weight): mask for name, mask in pruner.hard_masks.items()}
    for index, parameter in enumerate(model.parameters()):
        for key in ("exp_avg", "exp_avg_sq"):
            now, old = optimizer.state[parameter][key], before[index][key]
            mask = hard.get(id(parameter), torch.zeros(len(now), dtype=torch.bool))
            if parameter.ndim == 4:
                assert torch.equal(now[~mask], old[~mask])
                assert not now[mask].any()


def test_soft_filters_come_back_and_masks_change():
    """In front of a BatchNorm that is left alone, as in the authors' code."""
    model = make_classifier()
    pruner = make_pruner(model, "sfp", 0.4, bn_policy="hard_only")
    reports = train_pruned(model, pruner, make_task(), 6, 6, lr=0.1)
    assert all(report["revived"] > 0.5 for report in reports[1:])
    assert min(report["overlap"] for report in reports[1:]) < 1
    assert reports[0]["revived"] is None


def test_masks_stay_where_the_batch_norm_follows_and_move_where_gradients_rank():
    """With alpha = 0 and both zero nothing is left that could learn; with the scale alone, everything is."""
    first = make_classifier()
    pruner = make_pruner(first, "sfp", 0.4)
    reports = train_pruned(first, pruner, make_task(), 6, 6, lr=0.1)
    assert all(report["overlap"] == 1 for report in reports[1:])

    second = make_classifier()
    pruner = make_pruner(second, "sfp", 0.4, bn_policy="scale", criterion="taylor")
    optimizer = torch.optim.SGD(second.parameters(), lr=0.1, momentum=0.9)
    pruner.attach_optimizer(optimizer)
    reports = train_pruned(second, pruner, make_task(), 6, 6, optimizer=optimizer)
    assert min(report["overlap"] for report in reports[1:]) < 1
    assert all(report["revived"] == 1 for report in reports[1:])
    assert all(report["zero"] == report["pruned"] for report in reports)  # a scale of zero
    assert not pruner.fully_pruned  # shifts are left
    pruner.finalize()
    assert pruner.fully_pruned
    for name, mask in pruner.masks.items():
        norm = second.backbone.get_submodule(name.replace("conv", "bn"))
        for tensor in (second.backbone.get_submodule(name).weight, norm.weight, norm.bias):
            assert not tensor[mask].any()


def test_shifts_go_once_masks_have_settled():
    """The network learns to do without the constants, instead of losing them at the end."""
    model = make_classifier()
    pruner = make_pruner(model, "sfp", 0.4, bn_policy="scale")
    for t in range(8):
        with torch.no_grad():
            model.backbone.bn1.bias.fill_(0.5)
        pruner.step(t, 8)
        mask = pruner.masks["conv1"]
        assert model.backbone.bn1.bias[~mask].eq(0.5).all()
        assert model.backbone.bn1.bias[mask].eq(0 if t >= 5 else 0.5).all()  # 6 of 8 steps are three quarters
        assert model.backbone.conv1.weight[mask].any()


def test_only_filters_that_were_zero_can_come_back():
    model = make_classifier()
    pruner = make_pruner(model, "srfp", 0.4)
    for t in range(3):  # alpha is 1 and then between 1 and 0: nothing is zero, and nothing is trained
        pruner.step(t, 10)
        assert pruner.report()["revived"] is None
        assert pruner.report()["zero"] == 0


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    rate: float

    def __call__(self, t, total):
        return self.rate


def limited(*times, rate=None):
    return times[0] if rate is None else rate


def test_settings_of_schedules_of_ones_own_are_compared():
    model = make_classifier()
    schedules = [Slotted(0.4), functools.partial(limited, 0.4), functools.partial(limited, rate=0.4)]
    for first, other in itertools.pairwise(schedules):
        state = FilterPruner(model, 0.4, rate_schedule=first).state_dict()
        FilterPruner(model, 0.4, rate_schedule=first).load_state_dict(state)
        with pytest.raises(ValueError, match=r"pruner.rate_schedule is"):
            FilterPruner(model, 0.4, rate_schedule=other).load_state_dict(state)
    with pytest.raises(ValueError, match=r"must not exceed rate=0.4, but is 1 at t=0"):
        FilterPruner(model, 0.4, rate_schedule=lambda t, total: 0.4 if t == total - 1 else 1.0)


def test_masks_of_a_larger_network_are_refused():
    model = make_classifier()
    state = FilterPruner(model, 0.4).state_dict()
    with pytest.raises(ValueError, match=r"masks for another network: .* are not pruned here|pruner.exclude is"):
        FilterPruner(model, 0.4, exclude="layer2").load_state_dict(state)


@pytest.mark.parametrize("method", METHODS)
def test_finalized_network_is_learnt_and_exactly_sparse(method):
    task = make_task(size=128)
    model = make_classifier()
    pruner = make_pruner(model, method, 0.4)
    train_pruned(model, pruner, task, 10, 8)
    pruner.finalize()
    assert pruner.fully_pruned
    for name in LAYERS:
        zero = (rows(model, name) == 0).all(1)
        assert torch.equal(zero, pruner.masks[name])
        assert int(zero.sum()) == math.floor(len(zero) * 0.4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    train_steps(model, optimizer, task, 16, pruner)  # fine-tuning keeps the zeros
    assert all(torch.equal((rows(model, name) == 0).all(1), pruner.masks[name]) for name in LAYERS)
    assert accuracy(model, task) > 0.9


@pytest.mark.parametrize("method", [method for method in METHODS if ends_hard(method)])
def test_tail_of_hard_methods(method):
    """From 0.9 of the run on nothing changes any more, and finalizing takes no accuracy."""
    model, task = make_classifier(), make_task()
    pruner = make_pruner(model, method, 0.4)
    counts = [pruner.counts(t, 20) for t in range(20)]
    assert counts[18] == counts[19]
    assert (counts[0] == counts[19]) == (method in ("hfp", "fpgm"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for t in range(20):
        train_steps(model, optimizer, task, 2, pruner)
        if t == 19:
            before = copy.deepcopy(model)
        pruner.step(t, 20)
    pruner.finalize()
    for (name, one), other in zip(model.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(one, other), name
    model.eval()
    before.eval()
    assert torch.equal(model(task[0]), before(task[0]))


def test_finalize_keeps_the_mask_of_the_last_step_among_other_zeros():
    network = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.ReLU())
    pruner = make_pruner(network, "sfp", 0.5, prune_outputs=True)
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([0.4, 0.3, 0.1, 0.2]).view(4, 1, 1, 1))
    pruner.step(9, 10)
    with torch.no_grad():
        network[0].weight[0] = 0  # a filter that died by itself
    pruner.finalize()
    assert pruner.masks["0"].tolist() == [False, False, True, True]


def test_masks_are_fixed_once_finalized():
    model, pruner = trained("sfp")
    pruner.finalize()
    masks = {name: mask.clone() for name, mask in pruner.masks.items()}
    train_steps(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), make_task(), 3)
    pruner.step(0, 10)
    pruner.finalize()
    for name, mask in pruner.masks.items():
        assert torch.equal(mask, masks[name])
        assert not rows(model, name)[mask].any()


def test_averaged_weights_get_the_same_zeros():
    model, task = make_classifier(), make_task()
    average = copy.deepcopy(model)
    pruner = make_pruner(model, "ghfp-asrfp", 0.4)
    pruner.attach_mirror(average)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for t in range(6):
        train_steps(model, optimizer, task, 3, pruner)
        with torch.no_grad():
            for own, other in zip(average.parameters(), model.parameters(), strict=True):
                own.lerp_(other, 0.2)
        pruner.enforce(optimizer)
        before = average.backbone.conv1.weight.detach().clone()
        pruner.step(t, 6)
        decay, (soft, hard) = (
            pruner.position.decay,
            (
                pruner.masks["conv1"] & ~pruner.hard_masks["conv1"],
                pruner.hard_masks["conv1"],
            ),
        )
        now = average.backbone.conv1.weight
        assert torch.equal(now[soft], before[soft] * decay)
        assert not now[hard].any()
    pruner.finalize()
    for name, mask in pruner.masks.items():
        assert torch.equal((rows(average, name) == 0).all(1), mask)
        assert not torch.equal(rows(average, name), rows(model, name))


def test_state_continues_bit_for_bit():
    task = make_task()
    runs = []
    for interrupted in (False, True):
        model = make_classifier()
        pruner = make_pruner(model, "ghfp-asrfp", 0.4)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for t in range(6):
            if interrupted and t == 3:
                state = pickle.loads(pickle.dumps(pruner.state_dict()))
                model = copy.deepcopy(model)
                optimizer_state = optimizer.state_dict()
                optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
                optimizer.load_state_dict(optimizer_state)
                pruner = make_pruner(model, "ghfp-asrfp", 0.4)
                pruner.load_state_dict(state)
            train_steps(model, optimizer, task, 3, pruner)
            pruner.step(t, 6)
            pruner.enforce(optimizer)
        runs.append((model, pruner))
    (whole, first), (parts, second) = runs
    assert_same_weights(whole, parts)
    assert all(torch.equal(mask, second.masks[name]) for name, mask in first.masks.items())
    first.report(), second.report()
    assert first.history.entries == second.history.entries
    assert len(second.history.entries) == 6


def test_settings_that_an_earlier_version_did_not_have_do_not_count():
    _, pruner = trained("ghfp-asrfp", epochs=1)
    state = pruner.state_dict()
    del state["settings"]["prune_outputs"]
    other = make_pruner(make_classifier(), "ghfp-asrfp", 0.4)
    other.load_state_dict(state)
    assert other.report() == pruner.report()


def test_state_loads_with_weights_only(tmp_path):
    _, pruner = trained("ghfp-asrfp")
    torch.save(pruner.state_dict(), tmp_path / "state.pth")
    state = torch.load(tmp_path / "state.pth", weights_only=True)
    other = make_pruner(make_classifier(), "ghfp-asrfp", 0.4)
    other.load_state_dict(state)
    assert other.report() == pruner.report()


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"criterion": "l1"}, "criterion"),
        ({"rate_map": {"conv1": 0.2}}, "rate_map"),
        ({"decay_schedule": ExpDecay(sigma=1e-3)}, "decay_schedule is 'ExpDecay"),
        ({"rate_schedule": AsymptoticRate(0.4, quarter=0.25)}, "rate_schedule"),
        ({"bn_policy": "hard_only"}, "bn_policy is 'hard_only' here but was 'follow'"),
        ({"criterion": "taylor"}, r"criterion is 'Taylor\(settled=0.75\)' here"),
        ({"exclude": "layer1"}, "exclude"),
        ({"sticky": False}, "sticky"),
        ({"coupling": "group"}, "coupling"),
    ],
)
def test_another_setting_cannot_be_resumed(overrides, field):
    _, pruner = trained("ghfp-asrfp", epochs=1)
    other = make_pruner(make_classifier(), "ghfp-asrfp", 0.4, **overrides)
    with pytest.raises(ValueError, match=f"pruner.{field}"):
        other.load_state_dict(pruner.state_dict())


def test_another_network_cannot_be_resumed():
    _, pruner = trained("ghfp-asrfp", epochs=1)
    other = make_pruner(make_classifier(width=12), "ghfp-asrfp", 0.4)
    with pytest.raises(ValueError, match=r"masks for another network: conv1 needs one of shape \(12,\), found \(10,\)"):
        other.load_state_dict(pruner.state_dict())


def test_disagreement_is_noticed_before_anything_changes():
    model = make_classifier()
    pruner = make_pruner(model, "sfp", 0.4)
    before = copy.deepcopy(model)

    def disagree(masks):
        assert [name for name, *_ in masks] == LAYERS
        assert [int(pruned.sum()) for _, pruned, _ in masks] == [4, 4, 4, 8, 8]
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        pruner.step(0, 10, disagree)
    assert_same_weights(model, before)
    assert not any(mask.any() for mask in pruner.masks.values())


def test_step_and_enforce_read_nothing_back(monkeypatch):
    """Every way from a tensor to a Python value ends in one of these."""
    model, task = make_classifier(), make_task()
    pruner = make_pruner(model, "ghfp-asrfp", 0.4, criterion="fpgm")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    train_steps(model, optimizer, task, 2)
    reads = []
    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "nonzero", "cpu", "numpy"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda self, *a, original=original, name=name: reads.append(name) or original(self, *a)
        )
    for t in range(3):
        pruner.step(t, 3)
        pruner.enforce(optimizer)
    assert reads == []
    pruner.report()
    assert reads


def test_no_second_copy_of_the_weights_is_kept():
    _, pruner = trained("ghfp-asrfp")
    own = sum(mask.numel() for unit in pruner.units for mask in (unit.pruned, unit.hard))
    held = [value for value in vars(pruner).values() if isinstance(value, torch.Tensor)]
    assert not held
    assert own == 2 * (10 + 10 + 10 + 20 + 20)
