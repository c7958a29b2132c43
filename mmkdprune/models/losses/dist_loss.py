"""Distillation of relations between and within classes (Huang et al., 2022) on logits."""

import torch.nn.functional as F
from torch import Tensor, nn

from mmkdprune.arguments import checked
from mmkdprune.registry import MODELS

from ..utils import check_temperature, upcast_half
from .kd_loss import check_shapes

_EPSILON = 1e-8


@MODELS.register_module()
class DISTLoss(nn.Module):
    """Distil how a teacher ranks the classes of an image, and the images of a batch for a class.

    ``beta * T^2 * (1 - mean_r rho(row r)) + gamma * T^2 * (1 - mean_c rho(column c))`` of the softened class
    distributions of student and teacher, with rho the Pearson correlation: 0 for equal distributions, and for those
    that a positive affine map makes equal. A class whose probability is the same in the whole batch has no
    correlation and counts 0.

    Source: Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022, equations 7 to 9.

    Args:
        temperature (float): Softmax temperature T > 0, no unit. Defaults to 1, as on ImageNet.
        beta (float): Weight of the relations between classes. Defaults to 1.
        gamma (float): Weight of the relations within a class. Defaults to 1.

    Raises:
        ValueError: If the temperature is not positive, or a weight is negative.
    """

    @checked
    def __init__(self, temperature: float = 1.0, beta: float = 1.0, gamma: float = 1.0) -> None:
        super().__init__()
        self.temperature = check_temperature("DISTLoss", temperature)
        for name, weight in (("beta", beta), ("gamma", gamma)):
            if weight < 0:
                raise ValueError(f"DISTLoss: {name} must not be negative, got {weight}.")
        self.beta = beta
        self.gamma = gamma

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
        check_shapes("student and teacher", student, teacher)
        ours = (upcast_half(student) / self.temperature).softmax(1)
        theirs = (upcast_half(teacher.detach()) / self.temperature).softmax(1)
        between = 1 - correlation(ours, theirs).mean()
        within = 1 - correlation(ours.t(), theirs.t()).mean()
        return self.temperature**2 * (self.beta * between + self.gamma * within)


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson correlation of each row with the same row of another matrix.

    Args:
        first (Tensor): Shape (R, C).
        second (Tensor): Shape (R, C).

    Returns:
        Tensor: Shape (R,), 0 for a row that is constant.
    """
    first, second = first - first.mean(1, keepdim=True), second - second.mean(1, keepdim=True)
    return F.cosine_similarity(first, second, dim=1, eps=_EPSILON)
