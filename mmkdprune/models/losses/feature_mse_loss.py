"""Mean square error of feature maps, the plainest distillation of features."""

import torch.nn.functional as F
from torch import Tensor, nn

from mmkdprune.arguments import checked
from mmkdprune.registry import MODELS

from ..utils import upcast_half
from .dense_maps import check_loss_weight, check_maps


@MODELS.register_module()
class FeatureMSELoss(nn.Module):
    """Distil feature maps by their mean square difference, ``loss_weight * mean((student - teacher)^2)``.

    Source: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv 1412.6550, equation 3, with a mean in
    place of half the sum; their regressor for other widths is ``adapter=True`` of ``DenseDistillation``.

    Args:
        loss_weight (float): Factor of the loss, no unit. Defaults to 1.

    Raises:
        ValueError: If the weight is negative.
    """

    @checked
    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = check_loss_weight("FeatureMSELoss", loss_weight)

    @checked
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            student (Tensor): Features of the network that learns, (N, C, H, W).
            teacher (Tensor): Features of the network that is imitated, (N, C, H, W); detached here.

        Returns:
            Tensor: A scalar.

        Raises:
            ValueError: If the shapes differ.
        """
        check_maps("FeatureMSELoss", student, teacher)
        return self.loss_weight * F.mse_loss(upcast_half(student), upcast_half(teacher.detach()))
