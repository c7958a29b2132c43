"""Decoupled knowledge distillation (Zhao et al., 2022) on logits."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkdprune.arguments import checked
from mmkdprune.registry import MODELS

from ..utils import check_temperature, upcast_half
from .kd_loss import check_shapes


@MODELS.register_module()
class DKDLoss(nn.Module):
    """Distil what the teacher says of the true class, and of the others among themselves, with separate weights.

    Classic distillation is ``TCKD + (1 - p) * NCKD`` for each image, with ``p`` the teacher's probability of the true
    class: the better the teacher knows an image, the less the student learns about the other classes. Here the second
    term has a weight of its own. The logarithms of probabilities are computed from logits, without masks.

    The published code raises the weight of the whole term over the first 20 epochs; this loss is constant.

    Source: Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, equations 6 and 7.

    Args:
        temperature (float): Softmax temperature T > 0, no unit. Defaults to 4.
        alpha (float): Weight of the true class against all others. Defaults to 1.
        beta (float): Weight of the others among themselves. Defaults to 8; the published code takes 1 to 10 on
            CIFAR-100, depending on the networks.

    Raises:
        ValueError: If the temperature is not positive, or a weight is negative.
    """

    @checked
    def __init__(self, temperature: float = 4.0, alpha: float = 1.0, beta: float = 8.0) -> None:
        super().__init__()
        self.temperature = check_temperature("DKDLoss", temperature)
        for name, weight in (("alpha", alpha), ("beta", beta)):
            if weight < 0:
                raise ValueError(f"DKDLoss: {name} must not be negative, got {weight}.")
        self.alpha = alpha
        self.beta = beta

    @checked
    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            student (Tensor): Logits, shape (R, C).
            teacher (Tensor): Logits, shape (R, C); detached here.
            target (Tensor): True classes, shape (R,).

        Returns:
            Tensor: A scalar.

        Raises:
            ValueError: If the shapes differ.
        """
        target_term, other_term = decoupled_divergences(student, teacher, target, self.temperature)
        return (self.alpha * target_term + self.beta * other_term).mean()


def decoupled_divergences(
    student: Tensor, teacher: Tensor, target: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Split the divergence of two softened class distributions into its two parts.

    Args:
        student (Tensor): Logits, shape (R, C).
        teacher (Tensor): Logits, shape (R, C); detached here.
        target (Tensor): True classes, shape (R,).
        temperature (float): Softmax temperature T > 0.

    Returns:
        tuple[Tensor, Tensor]: T^2 times the divergence of (true class, all others), and of the others among themselves;
        each of shape (R,).

    Raises:
        ValueError: If the shapes differ.
    """
    check_shapes("student and teacher", student, teacher)
    of_student, of_teacher = (
        _split(upcast_half(logits) / temperature, target) for logits in (student, teacher.detach())
    )
    divergences = [
        F.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)
        for ours, theirs in zip(of_student, of_teacher, strict=True)
    ]
    return divergences[0] * temperature**2, divergences[1] * temperature**2


def _split(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of (true class, others), (R, 2), and of the others given that it is one of them, (R, C - 1)."""
    true = logits.gather(1, target[:, None])
    classes = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = logits.gather(1, classes + (classes >= target[:, None]))  # all columns but the true one, in their order
    total = logits.logsumexp(1, keepdim=True)
    rest = others.logsumexp(1, keepdim=True)
    return torch.cat([true - total, rest - total], dim=1), others - rest
