import math

import pytest
import torch
from testing_helpers import det, golden

from mmkdprune.models.losses import kd_loss, mutual_kd_loss

STUDENT, TEACHER = det((4, 5), 0.7, 0.1, 2.0), det((4, 5), 1.3, 0.5, 2.0)


@pytest.mark.parametrize("temperature", [1, 3, 4])
def test_golden(temperature):
    expected = golden("kd_losses")["kl"][f"T{temperature}"]
    assert kd_loss(STUDENT, TEACHER, temperature).item() == pytest.approx(expected, abs=1e-6)
    assert kd_loss(STUDENT.float(), TEACHER.float(), temperature).item() == pytest.approx(expected, rel=1e-4)


def test_slow_reference():
    total = 0.0
    for student, teacher in zip((STUDENT / 3).softmax(1).tolist(), (TEACHER / 3).softmax(1).tolist(), strict=True):
        total += 9 * sum(t * math.log(t / s) for s, t in zip(student, teacher, strict=True))
    assert kd_loss(STUDENT, TEACHER, 3.0).item() == pytest.approx(total / 4)


def test_zero_when_equal_and_gradient_only_for_the_student():
    student, teacher = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    assert kd_loss(TEACHER, TEACHER, 3.0).item() == 0
    kd_loss(student, teacher, 3.0).backward()
    assert teacher.grad is None
    # closed form: T / R * (softmax(student / T) - softmax(teacher / T))
    expected = 3 / 4 * ((STUDENT / 3).softmax(1) - (TEACHER / 3).softmax(1))
    torch.testing.assert_close(student.grad, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    student, teacher = (STUDENT * 20).to(dtype), (TEACHER * 20).to(dtype)
    loss = kd_loss(student, teacher, 1.0)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, kd_loss(student.float(), teacher.float(), 1.0))


def test_mutual_is_the_sum_of_both_directions():
    first, second = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    mutual = mutual_kd_loss(first, second, 3.0)
    gradients = torch.autograd.grad(mutual, (first, second))
    apart = kd_loss(first, second, 3.0) + kd_loss(second, first, 3.0)
    torch.testing.assert_close(mutual, apart)
    torch.testing.assert_close(gradients, torch.autograd.grad(apart, (first, second)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((STUDENT, TEACHER[:, :4], 3.0), "same num_classes"),
        ((STUDENT, TEACHER, 0.0), "temperature must be positive, got 0"),
        ((STUDENT, TEACHER, float("nan")), "temperature must be a number, got nan"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        kd_loss(*arguments)
