import pytest
import torch
import torch.nn.functional as F
from testing_helpers import det, golden

from mmkdprune.models.heads import DiscriminatorHead
from mmkdprune.models.losses import MixSKDLoss, interpolate_pairs, kd_loss

BATCH, CLASSES, HEADS = 4, 5, 4
LAM, PERM, TARGET = 0.3, torch.tensor([2, 0, 3, 1]), torch.tensor([0, 3, 1, 4])
NAMES = {
    "loss_ce": "ce_orig",
    "loss_mix_ce": "ce_mix",
    "loss_teacher_ce": "ce_selfteacher",
    "loss_kd_backbone": "kl_backbone",
    "loss_kd_branches": "kl_branches",
    "loss_feat": "feat_mse",
    "loss_disc": "disc_bce",
}


def golden_inputs(dtype=torch.float64):
    """The tensors of the golden values, all leaves that take gradients."""
    logits = [det((2 * BATCH, CLASSES), 0.31 + 0.07 * k, 0.2 * k, 1.5) for k in range(HEADS)]
    feats = [det((2 * BATCH, 3, 2, 2), 0.23 + 0.05 * k, 0.4 * k) for k in range(HEADS)]
    teacher = [det((BATCH, CLASSES), 0.45, 0.3, 1.5), det((BATCH, CLASSES), 0.61, 0.9, 1.5)]
    return [[tensor.to(dtype).requires_grad_() for tensor in tensors] for tensors in (logits, feats, teacher)]


def golden_discriminator(k: int, dtype) -> DiscriminatorHead:
    head = DiscriminatorHead(3).double()
    with torch.no_grad():
        head.fc1.weight.copy_(det((128, 3), 0.05 + 0.01 * k, 0.1, 0.3))
        head.fc1.bias.copy_(det((128,), 0.2, 0.1 * k, 0.1))
        head.fc2.weight.copy_(det((2, 128), 0.07, 0.3 * k, 0.2))
        head.fc2.bias.copy_(det((2,), 0.9, 0.1 * k, 0.1))
    return head.to(dtype)


def run(logits, feats, teacher, lam=LAM, perm=PERM):
    dtype = logits[0].dtype
    disc_logits = [
        golden_discriminator(k, dtype)(torch.cat([interpolate_pairs(feat[:BATCH], lam, perm), feat[BATCH:]]))
        for k, feat in enumerate(feats)
    ]
    return MixSKDLoss(3.0)(logits, feats, *teacher, TARGET, lam, perm, disc_logits)


def test_golden_terms_and_gradients():
    expected = golden("kd_losses")["mixskd"]
    logits, feats, teacher = golden_inputs()
    losses = run(logits, feats, teacher)
    assert list(losses) == list(NAMES)
    for ours, theirs in NAMES.items():
        assert losses[ours].item() == pytest.approx(expected[theirs], abs=1e-6), ours
    total = sum(losses.values())
    assert total.item() == pytest.approx(expected["total"], abs=2e-6)
    total.backward()
    leaves = {
        "backbone_logits": logits[-1],
        "branch1_logits": logits[0],
        "feat1": feats[0],
        "h_lerp": teacher[0],
        "h_mix": teacher[1],
    }
    for name, leaf in leaves.items():
        assert leaf.grad.norm().item() == pytest.approx(expected["grad_l2"][name], abs=1e-6), name


def test_golden_in_float32():
    expected = golden("kd_losses")["mixskd"]
    for ours, value in run(*golden_inputs(torch.float32)).items():
        assert value.item() == pytest.approx(expected[NAMES[ours]], rel=1e-4), ours


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_tensor_coefficient_equals_number(lam):
    number = run(*golden_inputs(), lam=lam)
    tensor = run(*golden_inputs(), lam=torch.tensor(lam, dtype=torch.float64))
    for name, value in number.items():
        torch.testing.assert_close(tensor[name], value)


def test_slow_reference_of_the_mixed_terms():
    logits, feats, teacher = golden_inputs()
    losses = run(logits, feats, teacher)

    def ce_mix(scores):
        return LAM * F.cross_entropy(scores, TARGET) + (1 - LAM) * F.cross_entropy(scores, TARGET[PERM])

    def lerp(values):
        return LAM * values[:BATCH] + (1 - LAM) * values[:BATCH][PERM]

    expected = {
        "loss_mix_ce": sum(ce_mix(scores[BATCH:]) for scores in logits),
        "loss_teacher_ce": ce_mix(teacher[0]) + ce_mix(teacher[1]),
        "loss_kd_backbone": kd_loss(lerp(logits[-1]), teacher[1], 3) + kd_loss(logits[-1][BATCH:], teacher[0], 3),
        "loss_feat": sum((lerp(feat) - feat[BATCH:]).square().mean() for feat in feats),
    }
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)


def test_coefficient_one_and_equal_images_leave_nothing_to_distil():
    logits, feats, _ = golden_inputs()
    logits = [torch.cat([scores[:BATCH]] * 2) for scores in logits]
    feats = [torch.cat([feat[:BATCH]] * 2) for feat in feats]
    teacher = [logits[-1][:BATCH]] * 2
    losses = MixSKDLoss()(logits, feats, *teacher, TARGET, 1.0, PERM)
    assert losses["loss_feat"].item() == 0
    assert losses["loss_kd_branches"].item() == 0
    assert losses["loss_kd_backbone"].item() == 0
    torch.testing.assert_close(losses["loss_mix_ce"], losses["loss_ce"])


def test_interpolation_is_exact_at_the_ends_and_for_the_identity():
    values = det((4, 3), 0.7, 0.2)
    assert torch.equal(interpolate_pairs(values, 1.0, PERM), values)
    assert torch.equal(interpolate_pairs(values, 0.0, PERM), values[PERM])
    assert torch.equal(interpolate_pairs(values, 0.37, torch.arange(4)), values)


def test_gradient_routing():
    """Distillation never teaches its teacher; the self-teacher learns from its own cross-entropy alone."""
    logits, feats, teacher = golden_inputs()
    losses = run(logits, feats, teacher)
    for name in ("loss_kd_backbone", "loss_kd_branches", "loss_feat", "loss_ce", "loss_mix_ce", "loss_disc"):
        gradients = torch.autograd.grad(losses[name], teacher, allow_unused=True, retain_graph=True)
        assert all(gradient is None for gradient in gradients), name
    assert torch.autograd.grad(losses["loss_kd_backbone"], logits[0], retain_graph=True)[0].abs().max() == 0
    # each direction of the branch term with its teacher frozen adds up to the whole gradient
    lerped, mixed = interpolate_pairs(logits[0][:BATCH], LAM, PERM), logits[0][BATCH:]
    by_hand = torch.autograd.grad(kd_loss(lerped, mixed, 3.0) + kd_loss(mixed, lerped, 3.0), logits[0])[0]
    torch.testing.assert_close(torch.autograd.grad(losses["loss_kd_branches"], logits[0])[0], by_hand)


def test_permuting_the_samples_changes_nothing():
    logits, feats, teacher = golden_inputs()
    order = torch.tensor([3, 1, 0, 2])
    rows = torch.cat([order, order + BATCH])
    inverse = torch.argsort(order)
    shuffled = MixSKDLoss()(
        [scores[rows] for scores in logits],
        [feat[rows] for feat in feats],
        *[scores[order] for scores in teacher],
        TARGET[order],
        LAM,
        inverse[PERM[order]],
    )
    original = MixSKDLoss()(logits, feats, *teacher, TARGET, LAM, PERM)
    for name, value in original.items():
        torch.testing.assert_close(shuffled[name], value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    logits, feats, teacher = golden_inputs()
    half = [[(tensor * 30).to(dtype).detach() for tensor in tensors] for tensors in (logits, feats, teacher)]
    single = [[tensor.float() for tensor in tensors] for tensors in half]
    ours, reference = (MixSKDLoss()(*x[:2], *x[2], TARGET, LAM, PERM) for x in (half, single))
    for name, value in reference.items():
        assert ours[name].dtype == torch.float32
        torch.testing.assert_close(ours[name], value)


def test_parts_can_be_left_out():
    logits, _, _ = golden_inputs()
    losses = MixSKDLoss()(logits, [], None, None, TARGET, LAM, PERM)
    assert set(losses) == {"loss_ce", "loss_mix_ce", "loss_kd_branches"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": lambda x: x[:1]}, "at least one branch"),
        ({"logits": lambda x: [x[0][:, :4], *x[1:]]}, "same num_classes"),
        ({"feats": lambda x: x[:2]}, "feats needs one tensor .* each of 4 heads"),
        ({"teacher_mix": lambda x: None}, "teacher_lerp and teacher_mix together"),
        ({"teacher_mix": lambda x: x[:, :3]}, "teacher_mix must have shape"),
        ({"target": lambda x: F.one_hot(x, CLASSES).float()}, "soft or multi-label"),
        ({"lam": lambda x: 1.5}, r"lam must lie in \[0, 1\], got 1.5"),
        ({"perm": lambda x: x[:3]}, "perm must have shape"),
    ],
)
def test_bad_input(change, message):
    logits, feats, teacher = golden_inputs()
    arguments = {
        "logits": logits,
        "feats": feats,
        "teacher_lerp": teacher[0],
        "teacher_mix": teacher[1],
        "target": TARGET,
        "lam": LAM,
        "perm": PERM,
    }
    for name, function in change.items():
        arguments[name] = function(arguments[name])
    with pytest.raises(ValueError, match=message):
        MixSKDLoss()(**arguments)


def test_bad_temperature():
    with pytest.raises(ValueError, match="temperature must be a positive number, got -1"):
        MixSKDLoss(temperature=-1)
