import pytest
import torch
from testing_helpers import det

from mmkdprune.models.losses import DKDLoss, kd_loss
from mmkdprune.models.losses.dkd_loss import decoupled_divergences

STUDENT, TEACHER = det((4, 5), 0.7, 0.1, 2.0), det((4, 5), 1.3, 0.5, 2.0)
TARGET = torch.tensor([0, 4, 2, 2])


def divergence(theirs: list[float], ours: list[float]) -> float:
    """Of two distributions, by its definition."""
    pairs = zip(torch.tensor(theirs), torch.tensor(ours), strict=True)
    return float(sum(their * (their / our).log() for their, our in pairs))


def test_slow_reference():
    total = 0.0
    for ours, theirs, true in zip(
        (STUDENT / 2).softmax(1).tolist(), (TEACHER / 2).softmax(1).tolist(), TARGET.tolist(), strict=True
    ):
        target_term = divergence([theirs[true], 1 - theirs[true]], [ours[true], 1 - ours[true]])
        others = [
            [value / (1 - row[true]) for index, value in enumerate(row) if index != true] for row in (theirs, ours)
        ]
        total += 4 * (0.5 * target_term + 3.0 * divergence(*others))
    assert DKDLoss(2.0, alpha=0.5, beta=3.0)(STUDENT, TEACHER, TARGET).item() == pytest.approx(total / 4, rel=1e-5)


def test_both_parts_make_up_classic_distillation():
    """Equation 6 of the paper: KD = TCKD + (1 - p) NCKD."""
    target_term, other_term = decoupled_divergences(STUDENT, TEACHER, TARGET, 3.0)
    known = (TEACHER / 3).softmax(1).gather(1, TARGET[:, None])[:, 0]
    torch.testing.assert_close((target_term + (1 - known) * other_term).mean(), kd_loss(STUDENT, TEACHER, 3.0))


def test_zero_when_equal_and_gradient_only_for_the_student():
    student, teacher = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    loss = DKDLoss()
    assert loss(TEACHER, TEACHER, TARGET).item() == pytest.approx(0, abs=1e-12)
    loss(student, teacher, TARGET).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0
    assert torch.autograd.gradcheck(lambda logits: loss(logits, TEACHER, TARGET), (STUDENT.clone().requires_grad_(),))


def test_finite_where_the_teacher_is_certain():
    teacher = torch.zeros(4, 5).scatter(1, TARGET[:, None], 200.0)
    student = STUDENT.float().requires_grad_()
    loss = DKDLoss()(student, teacher, TARGET)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_half_precision_is_computed_in_float32():
    student, teacher = STUDENT.half(), TEACHER.half()
    loss = DKDLoss()(student, teacher, TARGET)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, DKDLoss()(student.float(), teacher.float(), TARGET))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "DKDLoss: temperature must be a positive number, got 0"),
        ({"alpha": -1.0}, "alpha must not be negative, got -1"),
        ({"beta": -0.5}, "beta must not be negative, got -0.5"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        DKDLoss(**options)


def test_bad_shapes():
    with pytest.raises(ValueError, match="same num_classes"):
        DKDLoss()(STUDENT, TEACHER[:, :4], TARGET)
