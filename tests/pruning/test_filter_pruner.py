"""Pruning by filters: one step, counts, the methods among each other, and which layers and filters are chosen."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toy_nets import (
    LAYERS,
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
    ConstantDecay,
    ConstantHardShare,
    ConstantRate,
    CubicHardShare,
    ExpDecay,
    FilterPruner,
    make_pruner,
    preset,
)


def smallest_norms(weight, number):
    """The filters of smallest norm, by brute force in double precision."""
    order = sorted(range(len(weight)), key=lambda index: (math.hypot(*weight[index].double().tolist()), index))
    return set(order[:number])


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
    pruner = FilterPruner(network, 0.4, hard_schedule=ConstantHardShare(0.6), prune_outputs=True)
    pruner.step(0, 10)
    assert (int(pruner.masks["0"].sum()), int(pruner.hard_masks["0"].sum())) == (3, 2)


def test_kept_filters_are_rounded_up():
    network = nn.Sequential(nn.Conv2d(3, 24, 1), nn.ReLU(), nn.Conv2d(24, 6, 1), nn.ReLU())
    pruner = make_pruner(network, "ghfp-sfp", 0.4, round_to=8, prune_outputs=True)
    for t in range(10):
        pruner.step(t, 10)
        # of 24 filters 15 would be kept; of 6 no multiple of 8 is
        assert [int((~mask).sum()) for mask in pruner.masks.values()] == [16, 6]


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


def test_layers_that_the_forward_pass_does_not_meet_are_named():
    model = make_classifier()
    model.backbone.unused = nn.Conv2d(3, 4, 1)
    pruner = make_pruner(model, "sfp", 0.4)
    assert "not met in the forward pass" in pruner.skipped["unused"]
    assert "unused" not in pruner.masks
    make_pruner(model, "sfp", 0.4, exclude="unused")  # the pattern matches a layer


@pytest.mark.parametrize("policy", ["follow", "scale", "hard_only", "none"])
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
    filters = model.backbone.layer1.conv1.weight.detach().clone()
    pruner.step(0, 10)
    pruned, hard = pruner.masks["layer1.conv1"], pruner.hard_masks["layer1.conv1"]
    soft = pruned & ~hard
    assert (int(hard.sum()), int(soft.sum())) == (2, 2)
    weight = model.backbone.layer1.conv1.weight
    assert torch.equal(weight[soft], filters[soft] * (1 if policy == "scale" else 0.5))
    assert not weight[hard].any()
    for name, old in before.items():
        new = getattr(norm, name)
        scaled = {"follow": ("weight", "bias"), "scale": ("weight",)}.get(policy, ())
        assert torch.equal(new[~pruned], old[~pruned])
        assert torch.equal(new[soft], old[soft] * (0.5 if name in scaled else 1))
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
        pruner = FilterPruner(network, 0.5, decay_schedule=ConstantDecay(0.5), prune_outputs=True)
    bias = network[3].bias.detach().clone()
    pruner.step(0, 10)
    mask = pruner.masks["3"]
    assert torch.equal(network[3].bias[mask], bias[mask] * 0.5)
    pruner.finalize()
    assert not network[3].bias[pruner.masks["3"]].any()


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
        ({"bn_policy": "zero"}, "bn_policy must be one of 'follow', 'scale', 'hard_only', 'none'"),
        ({"freeze": "hook"}, "freeze must be one of 'post_step', 'grad'"),
        ({"criterion": "hessian"}, "criterion must be one of"),
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
        FilterPruner(network, 0.4, criterion="bn_scale", prune_outputs=True)


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


def test_outputs_of_the_model_are_left_alone_unless_asked_for():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    pruner = FilterPruner(network, 0.5)
    assert (list(pruner.masks), pruner.outputs) == (["0"], [])
    assert pruner.skipped == {"2": "an output of the model (prune_outputs=False)"}
    pruner = FilterPruner(network, 0.5, prune_outputs=True)
    assert (list(pruner.masks), pruner.outputs) == (["0", "2"], ["2"])
    with pytest.raises(ValueError, match=r"nothing is left to prune .*2: an output of the model"):
        FilterPruner(network, 0.5, include="2")


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
