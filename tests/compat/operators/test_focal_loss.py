import pytest
import torch
import torch.nn.functional as F
from mmcv.ops import sigmoid_focal_loss, softmax_focal_loss

GAMMA, ALPHA = 2.0, 0.25


def problem(labels):
    logits = 3 * torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return logits.requires_grad_(), torch.tensor(labels), torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)


def sigmoid_reference(logits, labels, weight):
    target = F.one_hot(labels, 5)[:, :4].to(logits)  # label 4 is the background
    probability = logits.sigmoid()
    rest = (1 - probability) * target + probability * (1 - target)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return entropy * rest**GAMMA * (ALPHA * target + (1 - ALPHA) * (1 - target)) * weight[:, None]


def softmax_reference(logits, labels, weight):
    entropy = F.cross_entropy(logits, labels.clamp(min=0), reduction="none")
    return ALPHA * (1 - torch.exp(-entropy)) ** GAMMA * entropy * weight * (labels >= 0)


LOSSES = {
    "sigmoid": (sigmoid_focal_loss, sigmoid_reference, [0, 1, 2, 3, 4, 4]),
    "softmax": (softmax_focal_loss, softmax_reference, [0, 1, 2, 3, 0, -1]),
}


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", LOSSES)
def test_values_and_gradients(kind, weighted, reduction):
    function, reference, labels = LOSSES[kind]
    logits, labels, weight = problem(labels)
    loss = function(logits, labels, GAMMA, ALPHA, weight if weighted else None, reduction)
    known = (labels >= 0) & (labels < 4)
    of_sample = torch.where(known, weight[labels.clamp(0, 3)], 1.0) if weighted else torch.ones(6, dtype=torch.float64)
    expected = reference(logits, labels, of_sample)
    expected = {"none": expected, "mean": expected.sum() / 6, "sum": expected.sum()}[reduction]
    torch.testing.assert_close(loss, expected)
    if reduction == "none" and kind == "softmax":  # MMCV multiplies (N, C) by (N,) here
        return
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    (wanted,) = torch.autograd.grad(expected.sum(), logits)
    torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("kind", LOSSES)
def test_gradcheck(kind):
    function, _, labels = LOSSES[kind]
    logits, labels, weight = problem(labels)
    assert torch.autograd.gradcheck(lambda x: function(x, labels, GAMMA, ALPHA, weight, "sum"), logits)


@pytest.mark.parametrize("kind", LOSSES)
def test_sure_logits_stay_finite(kind):
    function, _, labels = LOSSES[kind]
    logits = (1e4 * torch.eye(6, 4)).requires_grad_()
    loss = function(logits, torch.tensor(labels), GAMMA, ALPHA)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("kind", LOSSES)
def test_no_samples_and_half(kind):
    function, _, labels = LOSSES[kind]
    assert function(torch.empty(0, 4), torch.empty(0, dtype=torch.long), GAMMA, ALPHA, None, "sum") == 0
    half = function(torch.ones(6, 4, dtype=torch.bfloat16), torch.tensor(labels), GAMMA, ALPHA, None, "none")
    exact = function(torch.ones(6, 4), torch.tensor(labels), GAMMA, ALPHA, None, "none")
    torch.testing.assert_close(half, exact.bfloat16(), rtol=1e-2, atol=1e-3)
