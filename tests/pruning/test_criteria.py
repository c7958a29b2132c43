import math

import pytest
import torch

from mmkdprune.pruning import BatchNormScale, Context, GeometricMedian, LpNorm, Random, Taylor
from mmkdprune.pruning.criteria import get_criterion, rank


def context(filters, count=0, hard=(), **fields):
    mask = torch.zeros(len(filters), dtype=torch.bool)
    mask[list(hard)] = True
    return Context("layer", count, mask, **fields)


@pytest.fixture
def filters():
    return torch.randn(9, 12, generator=torch.Generator().manual_seed(0))


def distance(first, second, kind):
    if kind == "l1":
        return sum(abs(a - b) for a, b in zip(first, second, strict=True))
    if kind == "l2":
        return math.dist(first, second)
    dot = sum(a * b for a, b in zip(first, second, strict=True))
    return 1 - dot / (math.hypot(*first) * math.hypot(*second))


@pytest.mark.parametrize("p", [1, 2, 3])
def test_norm(filters, p):
    scores = LpNorm(p)(filters, context(filters))
    expected = [sum(abs(value) ** p for value in row) ** (1 / p) for row in filters.double().tolist()]
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["l1", "l2", "cosine"])
def test_geometric_median_by_brute_force(filters, kind):
    rows = filters.double().tolist()
    expected = [sum(distance(row, other, kind) for other in rows) for row in rows]
    scores = GeometricMedian(distance=kind)(filters, context(filters, count=4))
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64))


def test_mixed_criterion_by_brute_force(filters):
    """First the smallest norms, then the smallest distances among those that are left."""
    filters = filters.clone()
    filters[[2, 7]] *= 0.1
    rows = filters.double().tolist()
    by_norm = sorted(range(9), key=lambda index: math.hypot(*rows[index]))[:3]
    left = [index for index in range(9) if index not in by_norm]
    by_distance = sorted(left, key=lambda index: sum(math.dist(rows[index], rows[other]) for other in left))
    order = rank(GeometricMedian(norm_share=0.75)(filters, context(filters, count=4)))
    assert order.tolist() == by_norm + by_distance


def test_hard_filters_take_no_part_in_distances(filters):
    zeroed = filters.clone()
    zeroed[[1, 4]] = 0
    scores = GeometricMedian()(zeroed, context(zeroed, count=4, hard=[1, 4]))
    left = [0, 2, 3, 5, 6, 7, 8]
    alone = GeometricMedian()(zeroed[left], context(zeroed[left], count=4))
    torch.testing.assert_close(scores[left], alone)


def test_identical_filters_are_both_first():
    filters = torch.eye(6)[:, :4].repeat(1, 2) * 5 + 1
    filters[4] = filters[5] = filters.mean(0)
    order = rank(GeometricMedian()(filters, context(filters, count=2)))
    assert set(order[:2].tolist()) == {4, 5}


def test_distances_give_different_rankings():
    """The shortest filter, the most central one, and the one whose direction is shared are three different ones."""
    filters = torch.tensor([[0.1, 0.0], [3.0, 0.1], [6.0, 0.0], [2.6, 1.8], [0.0, 4.0]])
    first = {
        kind: rank(GeometricMedian(kind)(filters, context(filters, 1))).tolist() for kind in ("l1", "l2", "cosine")
    }
    norm = rank(LpNorm()(filters, context(filters, 1))).tolist()
    assert norm[0] == 0
    assert len({tuple(order) for order in (*first.values(), norm)}) == 4


def test_batch_norm_scale():
    filters = torch.ones(3, 4)
    scale = torch.tensor([0.5, 0.1, 0.3])
    assert BatchNormScale()(filters, context(filters, scale=scale)).tolist() == scale.tolist()
    with pytest.raises(ValueError, match="none with a scale follows layer"):
        BatchNormScale()(filters, context(filters))


def test_random_order_depends_on_seed_and_layer_only(filters):
    torch.manual_seed(1)
    one = Random(seed=3)(filters, context(filters))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(one, Random(seed=3)(-filters, context(filters)))
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(one, Random(seed=4)(filters, context(filters)))
    other = Context("another", 0, torch.zeros(9, dtype=torch.bool))
    assert not torch.equal(one, Random(seed=3)(filters, other))


def test_ties_are_ranked_by_index_or_by_the_mask_before():
    scores = torch.tensor([1.0, 0.0, 0.0, 2.0, 0.0])
    assert rank(scores).tolist() == [1, 2, 4, 0, 3]
    first = torch.tensor([False, False, False, True, True])
    assert rank(scores, first).tolist() == [4, 1, 2, 0, 3]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_filters_are_ranked_in_higher_precision(dtype):
    """Their squares would overflow float16."""
    filters = torch.full((2, 4), 300.0, dtype=dtype)
    filters[0] += 2
    scores = LpNorm()(filters, context(filters))
    assert scores.isfinite().all()
    assert scores[0] > scores[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: get_criterion("l3"),
            "criterion must be one of 'l1', 'l2', 'fpgm', 'bn_scale', 'taylor', 'random', got 'l3'",
        ),
        (lambda: GeometricMedian("euclid"), "distance must be one of"),
        (lambda: GeometricMedian(norm_share=1.1), "norm_share"),
        (lambda: LpNorm(0.5), "LpNorm.p"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_is_masked_has_less_and_less_time_to_come_back():
    derivative = torch.tensor([4.0, 3.0, 2.0, 1.0])
    masked = torch.tensor([True, False, False, True])
    filters = torch.ones(4, 2)

    def scores(progress):
        context = Context("a", 2, torch.zeros(4, dtype=torch.bool), None, derivative, masked, progress)
        return Taylor()(filters, context)

    assert torch.equal(scores(0.25), torch.tensor([4 * 2 / 3, 3, 2, 1 * 2 / 3]))
    for progress in (0.75, 1.0):  # below all that is kept, in their order
        assert scores(progress).argsort().tolist() == [3, 0, 2, 1]
    with pytest.raises(ValueError, match=r"Taylor.settled must be a number in \(0, 1\], got 0"):
        Taylor(settled=0)
