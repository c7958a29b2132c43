import math

import pytest
import torch
import torch.nn.functional as F
from testing_helpers import det, golden

from mmkdprune.models.losses import LayerwiseMutualContrastiveLoss, MutualContrastiveLoss, kd_loss

PAIRS, TRIPLES = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 0, 0, 1, 1, 1])
NAMES = ("loss_vcl", "loss_soft_vcl", "loss_icl", "loss_soft_icl")


def golden_embeddings(number, layers=1, dtype=torch.float64):
    """Unit embeddings of the golden values, by network and layer."""
    return [
        [
            F.normalize(det((6, 4), 0.37 + 0.11 * i + 0.05 * k, 0.5 * i + 0.2 * k), dim=1).to(dtype).requires_grad_()
            for k in range(layers)
        ]
        for i in range(number)
    ]


def single(embeddings):
    return [layers[0] for layers in embeddings]


def random_embeddings(number, batch=12, dim=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(number, batch, dim, generator=generator, dtype=torch.float64)
    return list(F.normalize(rows, dim=-1))


def contrast(similarities, target, self_positive=False, weights=None):
    """One anchor and one positive at a time."""
    rows = []
    for a, row in enumerate(similarities):
        own = [] if self_positive else [a]
        others = [n for n in range(len(row)) if n not in own]
        positives = [n for n in others if target[n] == target[a]]
        if positives:
            normaliser = math.log(sum(math.exp(row[n]) for n in others))
            rows.append(sum(normaliser - row[p] for p in positives) / len(positives) * (weights[a] if weights else 1))
    return sum(rows) / len(rows) if rows else 0.0


def without_diagonal(similarities):
    kept = ~torch.eye(len(similarities), dtype=torch.bool)
    return similarities[kept].view(len(similarities), -1)


def slow_reference(embeddings, target, tau=0.1, temperature=3.0, mask=False, self_positive=False):
    part = without_diagonal if mask else lambda rows: rows
    table = {(i, j): a @ b.T / tau for i, a in enumerate(embeddings) for j, b in enumerate(embeddings)}
    result = dict.fromkeys(NAMES, 0.0)
    for i, j in table:
        if i == j:
            result["loss_vcl"] += contrast(table[i, i], target)
        else:
            result["loss_soft_vcl"] += kd_loss(part(table[i, i]), part(table[j, j]), temperature)
            result["loss_icl"] += contrast(table[i, j], target, self_positive)
            result["loss_soft_icl"] += kd_loss(part(table[i, j]), part(table[j, i]), temperature)
    return {name: torch.as_tensor(value, dtype=torch.float64) for name, value in result.items()}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, {"abs": 1e-6}), (torch.float32, {"rel": 1e-4})])
@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize(("name", "target"), [("pairs", PAIRS), ("triples", TRIPLES)])
def test_golden(number, name, target, dtype, tolerance):
    expected = golden("kd_losses")["mcl_inbatch"][f"M{number}_{name}"]
    losses = MutualContrastiveLoss()(single(golden_embeddings(number, dtype=dtype)), target)
    assert tuple(losses) == NAMES
    for key, value in losses.items():
        assert value.item() == pytest.approx(expected[key.removeprefix("loss_")], **tolerance), key


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("self_positive", [False, True])
@pytest.mark.parametrize("number", [2, 4])
def test_equals_a_slow_reference(number, self_positive, mask):
    embeddings = random_embeddings(number)
    target = torch.tensor([0, 1, 2, 0, 1, 2, 0, 3, 3, 1, 1, 0])
    loss = MutualContrastiveLoss(tau=0.2, temperature=2.0, soft_mask_diag=mask, icl_self_positive=self_positive)
    expected = slow_reference(embeddings, target, 0.2, 2.0, mask, self_positive)
    torch.testing.assert_close(loss(embeddings, target), expected)


def test_an_image_without_another_of_its_class_is_no_anchor_of_contrast():
    embeddings, target = random_embeddings(2), torch.tensor([0, 0, 1, 2, 2, 3, 3, 3, 4, 5, 5, 5])
    for rows in embeddings:
        rows.requires_grad_()
    losses = MutualContrastiveLoss()(embeddings, target)
    torch.testing.assert_close(losses, slow_reference([rows.detach() for rows in embeddings], target))
    sum(losses.values()).backward()
    assert all(rows.grad.isfinite().all() for rows in embeddings)
    # All classes different: contrast has no positive at all.
    losses = MutualContrastiveLoss()(embeddings, torch.arange(12))
    assert losses["loss_vcl"] == losses["loss_icl"] == 0
    sum(losses.values()).backward()
    assert all(rows.grad.isfinite().all() for rows in embeddings)


def test_one_network_is_supervised_contrast_alone():
    (rows,) = random_embeddings(1)
    target = torch.arange(12) // 2
    losses = MutualContrastiveLoss()([rows], target)
    assert set(losses) == {"loss_vcl"}
    similarities = (rows @ rows.T / 0.1).fill_diagonal_(-torch.inf)
    partner = torch.arange(12) ^ 1
    torch.testing.assert_close(losses["loss_vcl"], F.cross_entropy(similarities, partner))


def test_order_of_networks_and_images_is_no_matter():
    embeddings, target = random_embeddings(3), torch.arange(12) // 3
    losses = MutualContrastiveLoss()(embeddings, target)
    torch.testing.assert_close(MutualContrastiveLoss()([embeddings[i] for i in (2, 0, 1)], target), losses)
    order = torch.randperm(12)
    torch.testing.assert_close(MutualContrastiveLoss()([rows[order] for rows in embeddings], target[order]), losses)


def test_equal_networks_have_nothing_to_teach():
    (rows,) = random_embeddings(1)
    losses = MutualContrastiveLoss()([rows, rows, rows], torch.arange(12) // 2)
    assert losses["loss_soft_vcl"].abs() < 1e-12
    assert losses["loss_soft_icl"].abs() < 1e-12


def test_chance_level():
    losses = MutualContrastiveLoss(tau=1e6)(random_embeddings(2, batch=128), torch.arange(128) // 2)
    assert losses["loss_vcl"].item() == pytest.approx(2 * math.log(127), rel=1e-4)
    assert losses["loss_icl"].item() == pytest.approx(2 * math.log(127), rel=1e-4)


def test_soft_terms_teach_the_student_distribution_only():
    first, second = (rows.requires_grad_() for rows in random_embeddings(2))
    losses = MutualContrastiveLoss()([first, second], torch.arange(12) // 2)
    own, other = first @ first.T / 0.1, second @ second.T / 0.1
    alone = kd_loss(own, other.detach(), 3.0) + kd_loss(other, own.detach(), 3.0)
    across = first @ second.T / 0.1
    both = kd_loss(across, across.T.detach(), 3.0) + kd_loss(across.T, across.detach(), 3.0)
    for name, value in (("loss_soft_vcl", alone), ("loss_soft_icl", both)):
        expected = torch.autograd.grad(value, (first, second), retain_graph=True)
        torch.testing.assert_close(torch.autograd.grad(losses[name], (first, second), retain_graph=True), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    half = [rows.to(dtype) for rows in random_embeddings(2)]
    target = torch.arange(12) // 2
    expected = MutualContrastiveLoss(tau=0.01)([rows.float() for rows in half], target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = MutualContrastiveLoss(tau=0.01)(half, target)
    assert all(value.dtype == torch.float32 for value in losses.values())
    torch.testing.assert_close(losses, expected)


ROWS = torch.eye(4)


@pytest.mark.parametrize(
    ("embeddings", "target", "message"),
    [
        ([], torch.arange(4), "at least one network"),
        ([ROWS, ROWS[:, :3]], torch.arange(4), r"same shape \(B, D\), got \[\(4, 4\), \(4, 3\)\].*out_channels"),
        ([ROWS[0]], torch.arange(4), r"same shape \(B, D\)"),
        ([ROWS, ROWS], torch.arange(3), "3 labels for 4 rows"),
        ([ROWS, ROWS], torch.ones(4), "soft or multi-label"),
        ([ROWS[:1], ROWS[:1]], torch.arange(1), "holds 1 image.*ClassPairBatchSampler"),
    ],
)
def test_bad_input(embeddings, target, message):
    with pytest.raises(ValueError, match=message):
        MutualContrastiveLoss()(embeddings, target)


@pytest.mark.parametrize("loss", [MutualContrastiveLoss, LayerwiseMutualContrastiveLoss])
@pytest.mark.parametrize("field", ["tau", "temperature"])
@pytest.mark.parametrize("value", [0, "hot", float("nan")])
def test_bad_temperatures(loss, field, value):
    with pytest.raises(ValueError, match=rf"{loss.__name__}: {field} must be a (positive )?number"):
        loss(**{field: value})


# Layer-wise contrast


@pytest.mark.parametrize(
    ("entry", "weights"),
    [("pair_00_11_weight_lin", torch.linspace(0.3, 0.7, 6)), ("pair_00_11_weight_one", torch.ones(6)), ("one", None)],
)
def test_golden_of_one_pair_of_layers(entry, weights):
    embeddings = golden_embeddings(2, layers=2)
    pair = [[embeddings[0][0]], [embeddings[1][1]]]
    if weights is not None:
        weights = weights.double().expand(2, 1, 2, 1, 6)
    losses = LayerwiseMutualContrastiveLoss()(pair, PAIRS, weights)
    expected = golden("kd_losses")["lmcl"]["pair_00_11_weight_one" if entry == "one" else entry]
    for name in NAMES:  # the pair counts in both orders
        assert losses[name].item() == pytest.approx(2 * expected[name.removeprefix("loss_")], abs=2e-6), name


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, {"abs": 1e-6}), (torch.float32, {"rel": 1e-4})])
def test_golden_of_all_layers(dtype, tolerance):
    losses = LayerwiseMutualContrastiveLoss()(
        golden_embeddings(2, 2, dtype), PAIRS, torch.full((2, 2, 2, 2, 6), 0.5, dtype=dtype)
    )
    for name, expected in golden("kd_losses")["lmcl"]["all_ordered_pairs_weight_half"].items():
        assert losses[f"loss_{name}"].item() == pytest.approx(expected, **tolerance), name


def test_layerwise_terms_of_single_layers_are_those_of_mutual_contrast():
    embeddings, target = random_embeddings(2), torch.arange(12) // 2
    losses = LayerwiseMutualContrastiveLoss()([[rows] for rows in embeddings], target)
    torch.testing.assert_close(
        losses, {name: 2 * value for name, value in MutualContrastiveLoss()(embeddings, target).items()}
    )


def test_layerwise_terms_are_linear_in_the_weights():
    rows = random_embeddings(6)
    embeddings, target = [rows[:2], rows[2:4], rows[4:]], torch.arange(12) // 2
    first, second = torch.rand(2, 3, 2, 3, 2, 12, dtype=torch.float64)
    loss = LayerwiseMutualContrastiveLoss()
    apart = [loss(embeddings, target, weights) for weights in (first, second)]
    together = loss(embeddings, target, 2 * first + second)
    torch.testing.assert_close(together, {name: 2 * apart[0][name] + apart[1][name] for name in NAMES})


@pytest.mark.parametrize("layers", [[1], [1, 2], [0, 0]])
def test_bad_layers(layers):
    with pytest.raises(ValueError, match="at least two networks with as many layers each"):
        LayerwiseMutualContrastiveLoss()([[ROWS] * number for number in layers], torch.arange(4))
