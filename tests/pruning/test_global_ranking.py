"""Filters of all layers in one ranking: against a loop over all of them, and with schedules, targets and state."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from toy_nets import assert_same_weights, make_classifier, make_task, rows, train_pruned, train_steps, trained

from mmkdprune.pruning import METHODS, FilterPruner, make_pruner
from mmkdprune.pruning.criteria import GeometricMedian
from mmkdprune.pruning.global_ranking import CostLimit, GlobalRanking, block_scores, block_sizes, normalised

SCALE = {"bn_policy": "scale", "criterion": "taylor"}


def norms(pruner, unit):
    filters = torch.cat([rows(pruner.model, name) for name in pruner._scored[unit.name]], 1)
    return [math.hypot(*row) for row in filters.double().tolist()]


def distances(pruner, unit):
    filters = torch.cat([rows(pruner.model, name) for name in pruner._scored[unit.name]], 1).double().tolist()
    hard = unit.hard.tolist()
    return [
        sum(math.dist(one, other) for other, gone in zip(filters, hard, strict=True) if not gone) for one in filters
    ]


def derivatives(pruner, unit):
    left = max(0.0, 1 - pruner._progress / 0.75)
    values = [float(value) for value in pruner.gradients.of(unit).double()]
    lift = max(values) + 1
    masked = unit.pruned.tolist()
    return [(v * left if left else v - lift) if gone else v for v, gone in zip(values, masked, strict=True)]


def brute_force(scores, masked, hard, number, min_keep, step):
    """Which filters go, by layer: one after the other, in whole blocks."""
    blocks = []
    for layer, values in scores.items():
        live = [value for value, gone in zip(values, masked[layer], strict=True) if not gone and value > 0]
        mean = sum(live) / len(live) if live else 1.0
        values = [-math.inf if gone else value / mean for value, gone in zip(values, hard[layer], strict=True)]
        order = sorted(range(len(values)), key=lambda index: (values[index], index))
        taken = 0
        while True:
            size = (len(order) - taken) % step or step
            if len(order) - taken - size < min_keep:
                break
            part = order[taken : taken + size]
            blocks.append((sum(values[index] for index in part) / size, len(blocks), layer, part))
            taken += size
    chosen = {layer: set() for layer in scores}
    for _, _, layer, part in sorted(blocks):
        if sum(map(len, chosen.values())) + len(part) > number:
            break
        chosen[layer] |= set(part)
    return chosen


@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.parametrize("coupling", ["independent", "group"])
@pytest.mark.parametrize(
    ("method", "options", "score"),
    [
        ("sfp", {}, norms),
        ("ghfp-asrfp", {}, norms),
        ("asfp", {"criterion": "fpgm"}, distances),
        ("ghfp-srfp", {"criterion": "fpgm", "min_keep": 5}, distances),
        ("srfp", SCALE, derivatives),
    ],
    ids=["sfp", "ghfp-asrfp", "fpgm", "fpgm hard", "taylor"],
)
def test_by_brute_force(method, options, score, coupling, step):
    model, task = make_classifier(), make_task()
    with torch.no_grad():  # filters of very unequal size in one layer
        model.backbone.layer1.conv1.weight *= torch.linspace(0.1, 3, 10)[:, None, None, None]
    pruner = make_pruner(model, method, 0.3, ranking="global", coupling=coupling, round_to=step, **options)
    pruner.model = model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    pruner.attach_optimizer(optimizer)
    total = sum(unit.size for unit in pruner.units)
    seen = set()

    def check(named):
        position = pruner.schedules.at(t, 4)
        scores = {unit.name: score(pruner, unit) for unit in pruner.units}
        masked = {unit.name: unit.pruned.tolist() for unit in pruner.units}
        hard = {unit.name: unit.hard.tolist() for unit in pruner.units}
        before = {unit.name: {index for index, gone in enumerate(hard[unit.name]) if gone} for unit in pruner.units}
        settings = (scores, masked, hard)
        for place, rate in ((1, position[0]), (2, position[0] * position[2])):
            number = math.floor(total * rate + 1e-9)
            expected = brute_force(*settings, number, options.get("min_keep", 1), step)
            found = {name: set(np.flatnonzero(masks[place - 1]).tolist()) for name, *masks in named}
            assert found == {name: expected[name] | before[name] for name in expected}
        seen.add(tuple(int(pruned.sum()) / len(pruned) for _, pruned, _ in named))

    for t in range(4):
        train_steps(model, optimizer, task, 2, pruner)
        pruner.step(t, 4, agree=lambda named: check([(name, one.numpy(), two.numpy()) for name, one, two in named]))
    assert any(len(set(shares)) > 1 for shares in seen)  # layers do lose different shares


@pytest.mark.parametrize("method", METHODS)
def test_every_method_ends_with_the_rate_of_all_filters(method):
    model, pruner = trained(method, ranking="global", epochs=3)
    pruner.finalize()
    total = sum(unit.size for unit in pruner.units)
    assert sum(unit.pruned_count for unit in pruner.units) == math.floor(total * 0.4) == pruner.report()["zero"]
    assert all(int((rows(model, unit.name) == 0).all(1).sum()) == unit.pruned_count for unit in pruner.units)


def test_the_overall_rate_grows_with_the_schedule():
    model = make_classifier()
    pruner = make_pruner(model, "ghfp-asrfp", 0.5, ranking="global")
    total = sum(unit.size for unit in pruner.units)
    reports = train_pruned(model, pruner, make_task(), epochs=10, steps=1)
    for t, report in enumerate(reports):
        rate, _, share = pruner.schedules.at(t, 10)
        assert report["pruned"] == math.floor(total * rate + 1e-9) == pruner.counts(t, 10)[0][0]
        assert report["hard"] == math.floor(total * rate * share + 1e-9) == pruner.counts(t, 10)[0][1]


def test_min_keep_guards_every_layer():
    model = make_classifier()
    with torch.no_grad():  # one filter that outweighs all others of its layer
        model.backbone.layer1.conv1.weight[0] *= 1e3
    counts = {}
    for min_keep in (1, 4):
        pruner = FilterPruner(copy.deepcopy(model), 0.5, ranking="global", min_keep=min_keep)
        pruner.step(0, 1)
        counts[min_keep] = {unit.name: unit.size - unit.pruned_count for unit in pruner.units}
        assert sum(unit.pruned_count for unit in pruner.units) == math.floor(70 * 0.5)
    assert counts[1]["layer1.conv1"] == 1
    assert counts[4]["layer1.conv1"] == min(counts[4].values()) == 4


def test_the_size_of_a_layers_weights_does_not_matter():
    model = make_classifier()
    masks = []
    for scale in (1.0, 256.0):
        scaled = copy.deepcopy(model)
        with torch.no_grad():
            scaled.backbone.layer2.conv1.weight *= scale
        pruner = FilterPruner(scaled, 0.4, ranking="global")
        pruner.step(0, 1)
        masks.append(pruner.masks)
    assert all(torch.equal(mask, masks[1][name]) for name, mask in masks[0].items())


def test_the_mixed_criterion_takes_its_share_by_norm_everywhere():
    model = make_classifier()
    pruner = FilterPruner(model, 0.4, criterion=GeometricMedian(norm_share=0.5), ranking="global")
    smallest = {unit.name: rows(model, unit.name).norm(dim=1).argsort()[: unit.size // 5] for unit in pruner.units}
    pruner.step(0, 1)
    assert all(pruner.masks[name][first].all() for name, first in smallest.items())


def test_normalised():
    scores, masked = torch.tensor([1.0, 3.0, 100.0, -1.0]), torch.tensor([False, False, True, False])
    assert normalised(scores, masked).tolist() == [0.5, 1.5, 50.0, -0.5]
    assert normalised(torch.zeros(3), torch.zeros(3, dtype=torch.bool)).tolist() == [0.0, 0.0, 0.0]


def test_blocks():
    assert block_sizes(10, 9, 1) == [1] * 9
    assert block_sizes(10, 6, 4) == [2, 4]
    assert block_sizes(8, 4, 4) == [4]
    assert block_sizes(6, 0, 8) == []
    assert block_scores(torch.tensor([1.0, 3.0, 4.0, 4.0, 4.0, 8.0, 9.0, 9.0]), [2, 4]).tolist() == [2.0, 5.0]
    assert len(block_scores(torch.ones(6), [])) == 0
    tenths = torch.full((11,), 0.1)  # whose means differ in the last digit
    assert block_scores(tenths, [3, 8]).diff().ge(0).all()


def test_within_takes_the_nearest():
    """Units whose filters cost 1, 1 and 8: what a limit leaves, by trying all prefixes and single blocks after them."""
    ranking = GlobalRanking([4, 4, 4], 1, 1)
    weights = np.array([1.0, 1.0, 8.0])
    scores = [
        torch.tensor([0.1, 0.4, 0.7, 1.0]),
        torch.tensor([0.2, 0.5, 0.8, 1.1]),
        torch.tensor([0.3, 0.6, 0.9, 1.2]),
    ]
    order = ranking.order(scores)
    for share in (1.0, 0.95, 0.8, 0.74, 0.5, 0.27, 0.26):
        limit = CostLimit(lambda numbers: 1 - float(numbers @ weights) / 40, share, 0.02)
        prefixes = [ranking.first(order, number) for number in range(10)]
        nearest = min(abs(limit.left(numbers) - share) for numbers in prefixes)
        found = abs(limit.left(ranking.within(order, limit)) - share)
        assert found <= nearest
    limit = CostLimit(lambda numbers: 1 - float(numbers @ weights) / 40, 0.925, 0.0)
    assert ranking.within(order, limit).tolist() == [2, 1, 0]  # not [1, 1, 1], whose last filter costs 8


def test_state_continues_bit_for_bit():
    task, runs = make_task(), []
    for interrupted in (False, True):
        model = make_classifier()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        pruner = make_pruner(model, "asrfp", 0.4, ranking="global", round_to=2)
        for t in range(6):
            if interrupted and t == 3:
                state = pickle.loads(pickle.dumps(pruner.state_dict()))
                pruner = make_pruner(model, "asrfp", 0.4, ranking="global", round_to=2)
                pruner.load_state_dict(state)
            train_steps(model, optimizer, task, 3, pruner)
            pruner.step(t, 6)
        pruner.finalize()
        runs.append((model, pruner))
    (whole, first), (parts, second) = runs
    assert_same_weights(whole, parts)
    assert all(torch.equal(mask, second.masks[name]) for name, mask in first.masks.items())


def test_the_last_mask_stands_among_other_zeros():
    model = make_classifier()
    pruner = FilterPruner(model, 0.3, ranking="global")
    pruner.step(0, 1)
    masks = {name: mask.clone() for name, mask in pruner.masks.items()}
    with torch.no_grad():
        model.backbone.layer2.conv2.weight[~masks["layer2.conv2"]] = 0
    pruner.finalize()
    assert all(torch.equal(mask, masks[name]) for name, mask in pruner.masks.items())


def test_ranking_is_a_setting():
    _, pruner = trained("asfp", epochs=1)
    state = pruner.state_dict()
    with pytest.raises(ValueError, match=r"pruner\.ranking is 'global' here but was 'layer'"):
        make_pruner(make_classifier(), "asfp", 0.4, ranking="global").load_state_dict(state)
    del state["settings"]["ranking"]  # as an earlier version saved it
    make_pruner(make_classifier(), "asfp", 0.4).load_state_dict(state)
    with pytest.raises(ValueError, match=r"pruner\.ranking is 'global' here but was 'layer'"):
        make_pruner(make_classifier(), "asfp", 0.4, ranking="global").load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ranking": "all"}, "ranking"),
        ({"ranking": "global", "rate_map": {"conv1": 0.2}}, "rate_map gives layers rates of their own"),
        (
            {"ranking": "global", "rate": 0.9, "min_keep": 4},
            r"rate 0.9 leaves 7 of 70 filters, fewer than the 20 that 5",
        ),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        FilterPruner(make_classifier(), **{"rate": 0.4, **options})
