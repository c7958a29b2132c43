"""Classic knowledge distillation (Hinton et al., 2015) on logits."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkdprune.arguments import checked
from mmkdprune.registry import MODELS

from ..utils import check_temperature, upcast_half


@MODELS.register_module()
class KDLoss(nn.Module):
    """Distil softened class distributions, as :func:`kd_loss` does; for ``KnowledgeDistillation(loss=...)``.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531.

    Args:
        temperature (float): Softmax temperature T > 0, no unit. Defaults to 4.

    Raises:
        ValueError: If the temperature is not positive.
    """

    @checked
    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = check_temperature("KDLoss", temperature)

    @checked
    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """Compute the loss.

        Args:
            student (Tensor): Logits, shape (R, C).
            teacher (Tensor): Logits, shape (R, C); detached here.
            target (Tensor, optional): Not used; all losses of logits are called alike.

        Returns:
            Tensor: A scalar.

        Raises:
            ValueError: If the shapes differ.
        """
        return kd_loss(student, teacher, self.temperature)


@checked
def kd_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Distil softened class distributions: ``T^2 / R * sum_r KL(softmax(teacher / T) || softmax(student / T))``.

    The teacher is detached here, whatever the caller passes. Half-precision logits are computed in float32.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, section 2; the form with
    ``T^2`` and the mean over rows is the one that MixSKD, HSAKD and MCL use.

    Args:
        student (Tensor): Logits of the network that learns. Shape (R, C), any number of rows R.
        teacher (Tensor): Logits of the network that is imitated. Shape (R, C).
        temperature (float): Softmax temperature T > 0, no unit. The papers use 3, classic KD often 4.

    Returns:
        Tensor: A scalar.

    Raises:
        ValueError: If the shapes differ or the temperature is not positive.
    """
    check_shapes("student and teacher", student, teacher)
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}.")
    log_student = F.log_softmax(upcast_half(student) / temperature, dim=-1)
    log_teacher = F.log_softmax(upcast_half(teacher.detach()) / temperature, dim=-1)
    divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(-1)  # (R,)
    return (divergence * temperature**2).mean()


@checked
def mutual_kd_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Let two sets of logits teach each other: ``kd_loss(first, second) + kd_loss(second, first)``.

    Each softmax is computed once and serves as student and, detached, as teacher.

    Args:
        first (Tensor): Logits, shape (R, C).
        second (Tensor): Logits, shape (R, C).
        temperature (float): Softmax temperature T > 0.

    Returns:
        Tensor: The scalar sum of both directions, each with its teacher detached.

    Raises:
        ValueError: If the shapes differ.
    """
    check_shapes("both networks'", first, second)
    log_first = F.log_softmax(upcast_half(first) / temperature, dim=-1)
    log_second = F.log_softmax(upcast_half(second) / temperature, dim=-1)
    pairs = ((log_first, log_second.detach()), (log_second, log_first.detach()))
    divergences = [F.kl_div(student, teacher, reduction="none", log_target=True) for student, teacher in pairs]
    return torch.add(*divergences).sum(-1).mean() * temperature**2


def check_shapes(whose: str, first: Tensor, second: Tensor) -> None:
    """Refuse logits of different shapes.

    Raises:
        ValueError: They differ.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"{whose} logits must have the same shape, got {tuple(first.shape)} and {tuple(second.shape)}: check that "
            "both networks have the same num_classes."
        )
