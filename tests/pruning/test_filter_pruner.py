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
    accuracy,
    assert_same_weights,
    make_classifier,
    make_task,
    train_pruned,
    train_steps,
)

from mmkdprune.pruning import (
    METHODS,
    AsymptoticRate,
    ConstantDecay,
    ConstantHardShare,
    ConstantRate,
    CubicHardShare,
    ExpDecay,
    FilterPruner,
    make_pruner,
    preset,
)
from mmkdprune.pruning.presets import ends_hard

pytestmark = pytest.mark.filterwarnings("ignore:.*pruned filters are outputs of the model")
LAYERS = ["conv1", "layer1.conv1", "layer1.conv2", "layer2.conv1", "layer2.conv2"]


def rows(model, name):
    return model.backbone.get_submodule(name).weight.detach().flatten(1).clone()


def smallest_norms(weight, number):
    """The filters of smallest norm, by brute force in double precision."""
    order = sorted(range(len(weight)), key=lambda index: (math.hypot(*weight[index].double().tolist()), index))
    return set(order[:number])


def indices(mask):
    return set(mask.nonzero().flatten().tolist())


@pytest.mark.parametrize("rate", [0.3, 0.5])
@pytest.mark.parametrize(("alpha", "share"), [(0.25, 0.5), (0.3, 0.0), (0.0, 0.34), (1.0, 0.0), (0.7, 1.0)])
def test_step_by_brute_force(alpha, share, rate):
    """Three steps: which filters are touched, what becomes of them, and that all others stay as they are."""
    model, task = make_classifier(), make_task()
    pruner = FilterPruner(
        model, rate, decay_schedule=ConstantDecay(alpha), hard_schedule=ConstantHardShare(share), sticky=False
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for t in range(3):
        train_steps(model, optimizer, task, 2)
        before = {name: rows(model, name) for name in LAYERS}
        pruner.step(t, 100)
        for name, old in before.items():
            new, size = rows(model, name), len(old)
            pruned, hard = indices(pruner.masks[name]), indices(pruner.hard_masks[name])
            assert pruned == smallest_norms(old, math.floor(size * rate + 1e-9))
            assert hard == smallest_norms(old, math.floor(size * rate * share + 1e-9))
            assert hard <= pruned
            for index in range(size):
                expected = 0 * old[index] if index in hard else alpha * old[index] if index in pruned else old[index]
                assert torch.equal(new[index], expected), (name, index)


def test_names_are_relative_to_the_backbone_and_shortcuts_are_left_alone():
    pruner = make_pruner(make_classifier(), "sfp", 0.4)
    assert list(pruner.masks) == LAYERS
    assert pruner.skipped == {"layer2.downsample.0": "projection shortcut (prune_downsample=False)"}
    assert list(make_pruner(make_classifier(), "sfp", 0.4, scope="").masks) == [f"backbone.{name}" for name in LAYERS]
    assert "layer2.downsample.0" in make_pruner(make_classifier(), "sfp", 0.4, prune_downsample=True).masks


@pytest.mark.parametrize(
    ("size", "rate", "expected"),
    [
        *((80, 0.9, 72), (40, 0.1, 4), (160, 0.2, 32), (240, 0.1, 24), (320, 0.2, 64), (640, 0.1, 64)),
        *((960, 0.2, 192), (1280, 0.1, 128), (720, 0.7, 504), (16, 0.4, 6), (64, 0.3, 19), (10, 0.0, 0)),
    ],
)
def test_counts_survive_floating_point(size, rate, expected):
    network = nn.Sequential(nn.Conv2d(3, size, 1), nn.ReLU(), nn.Conv2d(size, 4, 1))
    pruner = make_pruner(network, "hfp", rate, include=r"^0$")
    pruner.step(0, 1)
    assert int(pruner.masks["0"].sum()) == expected
    assert int((network[0].weight == 0).flatten(1).all(1).sum()) == expected


def test_hard_count_is_one_floor_over_the_product():
    network = nn.Sequential(nn.Conv2d(3, 9, 1), nn.ReLU())
    # floor(9 * 0.4 * 0.6) = 2, floor(floor(9 * 0.4) * 0.6) = 1
    pruner = FilterPruner(network, 0.4, hard_schedule=ConstantHardShare(0.6), scope="")
    pruner.step(0, 10)
    assert (int(pruner.masks["0"].sum()), int(pruner.hard_masks["0"].sum())) == (3, 2)


def test_kept_filters_are_rounded_up():
    network = nn.Sequential(nn.Conv2d(3, 24, 1), nn.ReLU(), nn.Conv2d(24, 6, 1), nn.ReLU())
    pruner = make_pruner(network, "ghfp-sfp", 0.4, round_to=8)
    for t in range(10):
        pruner.step(t, 10)
        # of 24 filters 15 would be kept; of 6 no multiple of 8 is
        assert [int((~mask).sum()) for mask in pruner.masks.values()] == [16, 6]


def trained(method, rate=0.4, seed=0, epochs=4, optimizer=None, steps=4, **overrides):
    model = make_classifier(seed)
    pruner = make_pruner(model, method, rate, **overrides)
    train_pruned(model, pruner, make_task(), epochs, steps, optimizer=optimizer and optimizer(model))
    return model, pruner


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("srfp", {"decay_schedule": ExpDecay(alpha_0=0)}), ("sfp", {})),
        (("asrfp", {"decay_schedule": ExpDecay(alpha_0=0)}), ("asfp", {})),
        (("asfp", {"rate_schedule": ConstantRate(0.4)}), ("sfp", {})),
        (("ghfp-srfp", {"hard_schedule": ConstantHardShare(1.0)}), ("hfp", {})),
        (("ghfp-sfp", {"hard_schedule": ConstantHardShare(1.0)}), ("hfp", {})),
    ],
)
def test_methods_reduce_to_each_other_bit_for_bit(first, second):
    (one, _), (other, _) = (trained(method, **overrides) for method, overrides in (first, second))
    assert_same_weights(one, other)


@pytest.mark.parametrize("base", ["sfp", "asfp", "srfp", "asrfp"])
def test_ghfp_without_hard_share_is_its_base(base):
    models = []
    for schedule in (preset(f"ghfp-{base}", 0.4), preset(base, 0.4)):
        model = make_classifier()
        pruner = FilterPruner(model, **{**schedule, "hard_schedule": ConstantHardShare(0.0)})
        train_pruned(model, pruner, make_task(), 4, 4)
        models.append(model)
    assert_same_weights(*models)
    other, _ = trained(f"ghfp-{base}")
    assert not torch.equal(other.backbone.conv1.weight, models[0].backbone.conv1.weight)


def dense(epochs=4, steps=4):
    model = make_classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(epochs):
        train_steps(model, optimizer, make_task(), steps)
    return model


@pytest.mark.parametrize("method", METHODS)
def test_rate_zero_is_plain_training(method):
    model, pruner = trained(method, rate=0.0)
    assert_same_weights(model, dense())
    assert pruner.fully_pruned
    pruner.finalize()
    assert_same_weights(model, dense())


def test_decay_of_one_is_plain_training():
    model = make_classifier()
    pruner = FilterPruner(model, 0.4, decay_schedule=ConstantDecay(1.0))
    for t in range(4):
        train_steps(model, torch.optim.SGD(model.parameters(), lr=0.05), make_task(), 2, pruner)
        before = copy.deepcopy(model.state_dict())
        pruner.step(t, 10)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert int(pruner.masks["conv1"].sum()) == 4


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


def test_revival_needs_a_positive_shift():
    """A zero filter before BatchNorm and ReLU gets a gradient only where the BatchNorm's shift is positive."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
    images = torch.randn(8, 3, 6, 6)
    with torch.no_grad():
        conv.weight[:3] = 0
        norm.bias.copy_(torch.tensor([0.1, 0.0, -0.1, 0.0]))
    (F.relu(norm(conv(images))) * torch.randn(8, 4, 4, 4)).sum().backward()
    moved = conv.weight.grad.flatten(1).abs().amax(1)
    assert moved[0] > 0
    assert moved[1] == moved[2] == 0
    # multiplied by 1 / sqrt(eps), about 316
    assert moved[0] > 10 * moved[3] > 0


def test_soft_filters_come_back_and_masks_change():
    model = make_classifier()
    pruner = make_pruner(model, "sfp", 0.4)
    reports = train_pruned(model, pruner, make_task(), 6, 6, lr=0.1)
    assert all(report["revived"] > 0.5 for report in reports[1:])
    assert min(report["overlap"] for report in reports[1:]) < 1
    assert reports[0]["revived"] is None


def test_only_filters_that_were_zero_can_come_back():
    model = make_classifier()
    pruner = make_pruner(model, "srfp", 0.4)
    for t in range(3):  # alpha is 1 and then between 1 and 0: nothing is zero, and nothing is trained
        pruner.step(t, 10)
        assert pruner.report()["revived"] is None
        assert pruner.report()["zero"] == 0


def test_layers_that_the_forward_pass_does_not_meet_are_named():
    model = make_classifier()
    model.backbone.unused = nn.Conv2d(3, 4, 1)
    pruner = make_pruner(model, "sfp", 0.4)
    assert "not met in the forward pass" in pruner.skipped["unused"]
    assert "unused" not in pruner.masks
    make_pruner(model, "sfp", 0.4, exclude="unused")  # the pattern matches a layer


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


@pytest.mark.parametrize("policy", ["none", "hard_only", "follow"])
@pytest.mark.filterwarnings("ignore:bn_policy='none'")
def test_batch_norm_policies(policy):
    model, task = make_classifier(), make_task()
    pruner = FilterPruner(
        model,
        0.4,
        decay_schedule=ConstantDecay(0.5),
        hard_schedule=ConstantHardShare(0.5),
        bn_policy=policy,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    train_steps(model, optimizer, task, 5, pruner)
    with torch.no_grad():
        model.backbone.layer1.bn1.bias += 0.5
    names = ("weight", "bias", "running_mean", "running_var")
    norm = model.backbone.layer1.bn1
    before = {name: getattr(norm, name).detach().clone() for name in names}
    pruner.step(0, 10)
    pruned, hard = pruner.masks["layer1.conv1"], pruner.hard_masks["layer1.conv1"]
    soft = pruned & ~hard
    assert (int(hard.sum()), int(soft.sum())) == (2, 2)
    for name, old in before.items():
        new = getattr(norm, name)
        scaled = policy == "follow" and not name.startswith("running")
        assert torch.equal(new[~pruned], old[~pruned])
        assert torch.equal(new[soft], old[soft] * (0.5 if scaled else 1))
        neutral = 1.0 if name == "running_var" else 0.0
        expected = old[hard] if policy == "none" else torch.full_like(old[hard], neutral)
        assert torch.equal(new[hard], expected)
    train_steps(model, optimizer, task, 3, pruner)
    pruner.finalize()
    model.eval()
    channels = F.relu(norm(model.backbone.layer1.conv1(torch.randn(2, 10, 8, 8))))[:, pruner.masks["layer1.conv1"]]
    assert (channels.abs().max() == 0) == (policy != "none")
    assert len(pruner.masks["layer1.conv1"].nonzero()) == 4


def test_convolution_biases_follow_and_batch_norm_without_scale_is_named():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.ReLU()
    )
    with pytest.warns(UserWarning, match=r"cannot be removed exactly, behind 0 \(BatchNorm 1 has no scale"):
        pruner = FilterPruner(network, 0.5, decay_schedule=ConstantDecay(0.5))
    bias = network[3].bias.detach().clone()
    pruner.step(0, 10)
    mask = pruner.masks["3"]
    assert torch.equal(network[3].bias[mask], bias[mask] * 0.5)
    pruner.finalize()
    assert not network[3].bias[pruner.masks["3"]].any()


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
    pruner = make_pruner(network, "sfp", 0.5)
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
        ({"bn_policy": "follow"}, "bn_policy is 'follow' here but was 'hard_only'"),
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rate": 1.0}, r"rate must be a number in \[0, 1\), got 1.0"),
        ({"rate": -0.1}, "got -0.1"),
        ({"rate": "0.4"}, "got '0.4'"),
        ({"include": "layer9"}, r"include: 'layer9' matches none of the 6 layers \(conv1, layer1.conv1"),
        ({"exclude": ["conv1", "stem"]}, "exclude: 'stem' matches none"),
        ({"exclude": "("}, "exclude: '\\(' is no regular expression"),
        ({"rate_map": {"layer9": 0.1}}, "rate_map: 'layer9' matches none"),
        ({"rate_map": {"layer1": 1.0}}, r"rate_map\['layer1'\] must be a number in \[0, 1\), got 1.0"),
        ({"rate": 0.0, "rate_map": {"layer1": 0.5}}, "rate_map needs a rate above 0"),
        ({"rate": 0.9, "min_keep": 2}, r"rate 0.9 leaves 1 of 10 filters in conv1, fewer than min_keep=2"),
        ({"rate": 1 - 1e-12}, "leaves 0 of 10 filters in conv1"),
        ({"rate": 0.4, "coupling": "both"}, "coupling must be one of 'independent', 'group', got 'both'"),
        ({"bn_policy": "zero"}, "bn_policy must be one of 'hard_only', 'follow', 'none'"),
        ({"freeze": "hook"}, "freeze must be one of 'post_step', 'grad'"),
        ({"criterion": "taylor"}, "criterion must be one of"),
        ({"round_to": 0}, "round_to must be a whole number of 1 or more, got 0"),
        ({"scope": "student"}, "scope 'student' is no module of Classifier; its parts are: backbone, fc"),
        ({"exclude": "."}, r"nothing is left to prune with coupling='independent' \(conv1: exclude='.'"),
        ({"rate_schedule": ConstantRate(0.3)}, "rate_schedule must end at rate=0.4, but is 0.3"),
        ({"decay_schedule": lambda t, total: 0.5}, "decay_schedule must end at 0"),
        ({"hard_schedule": lambda t, total: 0.5}, r"hard_schedule must end at 1 \(or be 0 throughout\), but is 0.5"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(ValueError, match=message):
        FilterPruner(make_classifier(), **{"rate": 0.4, **arguments})


def test_network_without_convolutions():
    with pytest.raises(ValueError, match="Linear has no Conv2d layer"):
        FilterPruner(nn.Linear(2, 2), 0.4)


def test_layers_without_batch_norm_cannot_be_ranked_by_it():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    with pytest.raises(ValueError, match="none with a scale follows 0"):
        FilterPruner(network, 0.4, criterion="bn_scale")


def test_batch_norm_scale_chooses_the_filters():
    model = make_classifier()
    with torch.no_grad():
        model.backbone.bn1.weight.copy_(torch.tensor([5.0, 0.1, 4, 0.3, -0.2, 6, 7, 8, 9, -0.05]))
    pruner = FilterPruner(model, 0.4, criterion="bn_scale")
    pruner.step(0, 10)
    assert indices(pruner.masks["conv1"]) == {9, 1, 4, 3}


@pytest.mark.parametrize("scores", [lambda filters: filters, lambda filters: filters.argmax(1)])
def test_a_criterion_that_gives_no_scores_is_named(scores):
    pruner = FilterPruner(make_classifier(), 0.4, criterion=lambda filters, context: scores(filters))
    with pytest.raises(ValueError, match=r"must return one floating-point score a filter, shape \(10,\), but returned"):
        pruner.step(0, 10)


def test_layers_with_rates_of_their_own():
    pruner = FilterPruner(
        make_classifier(),
        0.4,
        rate_map={"layer1": 0.6, "layer2.conv2": 0.0},
        rate_schedule=AsymptoticRate(0.4),
        hard_schedule=CubicHardShare(),
    )
    counts = [(4, 6, 6, 8, 0)]
    pruner.step(99, 100)
    assert [tuple(int(mask.sum()) for mask in pruner.masks.values())] == counts
    # on the same curve: half of the rate of each layer
    half = FilterPruner(
        make_classifier(),
        0.4,
        rate_map={"backbone.layer1": 0.6},  # the scope's name may be part of the pattern
        rate_schedule=lambda t, total: 0.4 if t == total - 1 else 0.2,
    )
    half.step(0, 100)
    assert [int(mask.sum()) for mask in half.masks.values()] == [2, 3, 3, 4, 4]


def test_include_exclude_first_and_last():
    model = make_classifier()
    assert list(FilterPruner(model, 0.4, include=["layer1", "layer2"]).masks) == LAYERS[1:]
    assert list(FilterPruner(model, 0.4, exclude=r"conv2$").masks) == [LAYERS[0], LAYERS[1], LAYERS[3]]
    assert list(FilterPruner(model, 0.4, prune_first=False).masks) == LAYERS[1:]
    # the last convolution of the forward pass is the shortcut's
    assert list(FilterPruner(model, 0.4, prune_last=False, prune_downsample=True).masks) == LAYERS
    pruner = FilterPruner(model, 0.4, prune_first=False, exclude="layer1")
    assert pruner.skipped["conv1"] == "prune_first=False"
    assert pruner.skipped["layer1.conv1"] == "exclude='layer1'"


def test_output_of_the_model_is_warned_of():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    with pytest.warns(UserWarning, match="2: pruned filters are outputs of the model"):
        FilterPruner(network, 0.5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_a_gpu_with_mixed_precision():
    model, task = make_classifier().cuda(), tuple(part.cuda() for part in make_task())
    pruner = make_pruner(model, "ghfp-asrfp", 0.4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scaler = torch.amp.GradScaler()
    for t in range(6):
        for _ in range(4):
            with torch.autocast("cuda"):
                loss = F.cross_entropy(model(task[0]), task[1])
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            pruner.enforce(optimizer)
            for name, hard in pruner.hard_masks.items():
                layer = model.backbone.get_submodule(name)
                assert not layer.weight[hard].any()
                assert not optimizer.state[layer.weight]["momentum_buffer"][hard].any()
        torch.cuda.set_sync_debug_mode("error")
        try:
            pruner.step(t, 6)
            pruner.enforce(optimizer)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert pruner.masks["conv1"].is_cuda
    assert pruner.report()["zero"] == pruner.report()["pruned"]
