import numpy as np
import pytest
import torch
from testing_helpers import det

from mmkdprune.models.losses import DISTLoss

STUDENT, TEACHER = det((4, 5), 0.7, 0.1, 2.0), det((4, 5), 1.3, 0.5, 2.0)


def test_slow_reference():
    ours, theirs = ((logits / 2).softmax(1).numpy() for logits in (STUDENT, TEACHER))
    between = np.mean([1 - np.corrcoef(ours[row], theirs[row])[0, 1] for row in range(4)])
    within = np.mean([1 - np.corrcoef(ours[:, column], theirs[:, column])[0, 1] for column in range(5)])
    expected = 4 * (0.5 * between + 3.0 * within)
    assert DISTLoss(2.0, beta=0.5, gamma=3.0)(STUDENT, TEACHER).item() == pytest.approx(expected, rel=1e-6)


def test_zero_when_equal_and_gradient_only_for_the_student():
    student, teacher = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    loss = DISTLoss()
    assert loss(TEACHER, TEACHER).item() == pytest.approx(0, abs=1e-12)
    loss(student, teacher).backward()
    assert teacher.grad is None
    assert torch.autograd.gradcheck(lambda logits: loss(logits, TEACHER), (STUDENT.clone().requires_grad_(),))


def test_finite_where_there_is_nothing_to_correlate():
    """One image, or the same probability everywhere."""
    for student, teacher in [(STUDENT[:1], TEACHER[:1]), (torch.zeros(3, 5), torch.zeros(3, 5))]:
        student = student.clone().requires_grad_()
        loss = DISTLoss()(student, teacher)
        loss.backward()
        assert loss.isfinite()
        assert student.grad.isfinite().all()


def test_half_precision_is_computed_in_float32():
    student, teacher = STUDENT.half(), TEACHER.half()
    loss = DISTLoss()(student, teacher)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, DISTLoss()(student.float(), teacher.float()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "DISTLoss: temperature must be a positive number, got 0"),
        ({"beta": -1.0}, "beta must not be negative, got -1"),
        ({"gamma": -0.5}, "gamma must not be negative, got -0.5"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        DISTLoss(**options)


def test_bad_shapes():
    with pytest.raises(ValueError, match="same num_classes"):
        DISTLoss()(STUDENT, TEACHER[:, :4])
