"""Focal losses (Lin et al., ICCV 2017) with the forward and backward halves that MMCV calls."""

import torch
from torch import Tensor

from .precision import full


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the focal loss of independent classes into ``output``.

    Args:
        input (Tensor): Logits (N, C).
        target (Tensor): Labels (N,), int64; a label outside ``0 .. C - 1`` makes a sample negative for every class.
        weight (Tensor): Weights (C,) of the samples by their label, or empty.
        output (Tensor): Losses (N, C).
        gamma (float): Exponent of the modulating factor.
        alpha (float): Weight of the positive class.
    """
    probability, positive = _probabilities(input, target)
    floor = torch.finfo(probability.dtype).tiny
    rest = 1 - probability
    of_positive = -alpha * rest**gamma * probability.clamp(min=floor).log()
    of_negative = (alpha - 1) * probability**gamma * rest.clamp(min=floor).log()
    output.copy_(_weighted(torch.where(positive, of_positive, of_negative), target, weight))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the gradient of the summed :func:`sigmoid_focal_loss_forward` into ``grad_input`` (N, C)."""
    probability, positive = _probabilities(input, target)
    floor = torch.finfo(probability.dtype).tiny
    rest = 1 - probability
    of_positive = -alpha * rest**gamma * (rest - gamma * probability * probability.clamp(min=floor).log())
    of_negative = (alpha - 1) * probability**gamma * (gamma * rest * rest.clamp(min=floor).log() - probability)
    grad_input.copy_(_weighted(torch.where(positive, of_positive, of_negative), target, weight))


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the focal loss of exclusive classes into ``output``.

    Args:
        input (Tensor): Probabilities (N, C), after the softmax.
        target (Tensor): Labels (N,), int64; a negative one leaves its sample out.
        weight (Tensor): Weights (C,) of the samples by their label, or empty.
        output (Tensor): Losses (N,).
        gamma (float): Exponent of the modulating factor.
        alpha (float): Weight of every class.
    """
    probability = _of_target(input, target)
    logarithm = probability.clamp(min=torch.finfo(probability.dtype).tiny).log()
    loss = -alpha * (1 - probability) ** gamma * logarithm
    output.copy_(_weighted(loss[:, None], target, weight)[:, 0].masked_fill(target < 0, 0))


def softmax_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the gradient of the summed :func:`softmax_focal_loss_forward` by the logits into ``grad_input`` (N, C)."""
    probability = _of_target(input, target)
    rest = 1 - probability
    logarithm = probability.clamp(min=torch.finfo(probability.dtype).tiny).log()
    factor = alpha * (gamma * rest ** (gamma - 1) * probability * logarithm - rest**gamma)
    factor = _weighted(factor[:, None], target, weight)[:, 0].masked_fill(target < 0, 0)
    buff.copy_(factor)
    classes = torch.arange(input.shape[1], device=input.device)
    grad_input.copy_(factor[:, None] * ((target[:, None] == classes).to(factor) - input.to(factor)))


def _probabilities(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    classes = torch.arange(input.shape[1], device=input.device)
    return full(input)[0].sigmoid(), target[:, None] == classes


def _of_target(probabilities: Tensor, target: Tensor) -> Tensor:
    return full(probabilities)[0].gather(1, target.clamp(min=0)[:, None])[:, 0]


def _weighted(loss: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """MMCV reads past the weights where a label names no class; here such a sample weighs 1."""
    if weight.numel() == 0:
        return loss
    known = (target >= 0) & (target < len(weight))
    factor = torch.where(known, weight.to(loss)[target.clamp(0, len(weight) - 1)], 1.0)
    return loss * factor[:, None]
