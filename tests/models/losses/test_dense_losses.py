"""Losses of feature and class maps: closed forms, slow references, gradients, bad input."""

import math

import numpy as np
import pytest
import torch
from testing_helpers import det

from mmkdprune.models.losses import (
    ChannelWiseDistillationLoss,
    ClassMapDistillationLoss,
    FeatureMSELoss,
    PearsonDistillationLoss,
)

SHAPE = (2, 6, 3, 4)
STUDENT, TEACHER = det(SHAPE, 0.7, 0.1, 2.0), det(SHAPE, 1.3, 0.5, 2.0)
LOSSES = {
    "channel-wise": ChannelWiseDistillationLoss(),
    "pearson": PearsonDistillationLoss(),
    "mse": FeatureMSELoss(),
    "softmax": ClassMapDistillationLoss(num_classes=3, temperature=2.0),
    "sigmoid": ClassMapDistillationLoss(num_classes=3, use_sigmoid=True, temperature=2.0),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=list(LOSSES))


def slow_divergence(ours: np.ndarray, theirs: np.ndarray) -> float:
    """KL(theirs || ours) of two vectors of logits."""
    ours, theirs = (np.exp(logits - logits.max()) for logits in (ours, theirs))
    ours, theirs = ours / ours.sum(), theirs / theirs.sum()
    return float(sum(q * math.log(q / p) for p, q in zip(ours, theirs, strict=True)))


def test_channel_wise_slow_reference():
    pairs = [(STUDENT[n, c].flatten() / 4, TEACHER[n, c].flatten() / 4) for n in range(2) for c in range(6)]
    expected = 3 * 16 * np.mean([slow_divergence(ours.numpy(), theirs.numpy()) for ours, theirs in pairs])
    assert ChannelWiseDistillationLoss()(STUDENT, TEACHER).item() == pytest.approx(expected, rel=1e-9)


def test_channel_wise_closed_form():
    """Two pixels: a student without preference, a teacher that is three times as active in the first."""
    teacher = torch.tensor([math.log(3.0), 0.0]).reshape(1, 1, 1, 2)
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    loss = ChannelWiseDistillationLoss(temperature=1, loss_weight=1)
    assert loss(torch.zeros(1, 1, 1, 2), teacher).item() == pytest.approx(expected)
    shifted = TEACHER + torch.arange(6.0).reshape(1, 6, 1, 1)
    assert loss(shifted, TEACHER).item() == pytest.approx(0, abs=1e-12)


def test_pearson_is_one_minus_the_correlation_of_each_channel():
    expected = np.mean(
        [1 - np.corrcoef(STUDENT[:, c].flatten().numpy(), TEACHER[:, c].flatten().numpy())[0, 1] for c in range(6)]
    )
    assert PearsonDistillationLoss()(STUDENT, TEACHER).item() == pytest.approx(6 * expected, rel=1e-5)
    scaled = TEACHER * (1 + torch.arange(6.0)).reshape(1, 6, 1, 1) - 5
    assert PearsonDistillationLoss()(scaled, TEACHER).item() == pytest.approx(0, abs=1e-9)


def test_pearson_leaves_constant_channels_alone():
    """A pruned filter would else get a gradient that is a million times as large."""
    student = STUDENT.clone()
    student[:, 2] = 0
    student.requires_grad_()
    loss = PearsonDistillationLoss(loss_weight=1)(student, TEACHER)
    loss.backward()
    rest = [0, 1, 3, 4, 5]
    expected = (5 * PearsonDistillationLoss(loss_weight=1)(STUDENT[:, rest], TEACHER[:, rest]) + 0.5) / 6
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert not student.grad[:, 2].any()
    assert student.grad[:, 1].any()
    single = torch.ones(1, 2, 1, 1, requires_grad=True)
    PearsonDistillationLoss()(single, torch.zeros(1, 2, 1, 1)).backward()
    assert not single.grad.any()


def test_pearson_resizes_the_student():
    half = torch.nn.functional.avg_pool2d(TEACHER[:, :, :2], 2)
    plain = torch.nn.functional.interpolate(half, (3, 4), mode="bilinear")
    assert PearsonDistillationLoss()(half, TEACHER) == PearsonDistillationLoss()(plain, TEACHER)


def test_mse_closed_form():
    assert FeatureMSELoss(loss_weight=0.5)(TEACHER + 3, TEACHER).item() == pytest.approx(4.5)
    expected = 2 * np.mean((STUDENT.numpy() - TEACHER.numpy()) ** 2)
    assert FeatureMSELoss(loss_weight=2)(STUDENT, TEACHER).item() == pytest.approx(expected)


@pytest.mark.parametrize("use_sigmoid", [False, True])
def test_class_map_slow_reference(use_sigmoid):
    """Two anchors of three classes: channel a * 3 + k."""
    total = 0.0
    for n, a, y, x in np.ndindex(2, 2, 3, 4):
        ours, theirs = (maps[n, 3 * a : 3 * a + 3, y, x].numpy() / 2 for maps in (STUDENT, TEACHER))
        pairs = [(np.array([p, 0]), np.array([q, 0])) for p, q in zip(ours, theirs, strict=True)]
        total += sum(slow_divergence(*pair) for pair in (pairs if use_sigmoid else [(ours, theirs)]))
    loss = ClassMapDistillationLoss(3, use_sigmoid, temperature=2, loss_weight=0.5)
    assert loss(STUDENT, TEACHER).item() == pytest.approx(0.5 * 4 * total / (2 * 2 * 3 * 4), rel=1e-9)


@every_loss
def test_zero_when_equal_and_gradient_only_for_the_student(loss):
    student, teacher = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    assert loss(TEACHER, TEACHER).item() == pytest.approx(0, abs=1e-12)
    value = loss(student, teacher)
    value.backward()
    assert value > 0
    assert teacher.grad is None
    assert torch.autograd.gradcheck(lambda maps: loss(maps, TEACHER), (STUDENT.clone().requires_grad_(),))


@every_loss
def test_half_precision_is_computed_in_float32(loss):
    student, teacher = STUDENT.half(), TEACHER.bfloat16()
    value = loss(student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(student.float(), teacher.float()))


@every_loss
def test_bad_shapes(loss):
    for teacher, message in [
        (TEACHER[:1], "must see the same images, got 2 and 1"),
        (TEACHER[:, :3], "6 channels and the teacher's 3.*adapter=True"),
        (TEACHER[0], r"maps of shape \(N, C, H, W\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            loss(STUDENT, teacher)
    if not isinstance(loss, PearsonDistillationLoss):
        with pytest.raises(ValueError, match="3x4 and the teacher's 3x2 pixels"):
            loss(STUDENT, TEACHER[..., :2])


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (ChannelWiseDistillationLoss, {"temperature": 0}, "temperature must be a positive number, got 0"),
        (ClassMapDistillationLoss, {"temperature": -1}, "temperature must be a positive number, got -1"),
        (ClassMapDistillationLoss, {"num_classes": 0}, "num_classes must be a whole number of 1 or more"),
        *[(type(loss), {"loss_weight": -1.0}, "loss_weight must be a finite number") for loss in LOSSES.values()],
    ],
)
def test_bad_options(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**options)


def test_class_map_of_other_channels():
    with pytest.raises(ValueError, match="6 channels are not a multiple of num_classes=4"):
        ClassMapDistillationLoss(num_classes=4)(STUDENT, TEACHER)
