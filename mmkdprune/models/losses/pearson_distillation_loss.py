"""Distillation of normalised feature maps: Pearson correlation (Cao et al., 2022)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkdprune.arguments import checked
from mmkdprune.registry import MODELS

from ..utils import upcast_half
from .dense_maps import check_loss_weight, check_maps

_EPSILON = 1e-6


@MODELS.register_module()
class PearsonDistillationLoss(nn.Module):
    """Distil feature maps up to the scale and offset of each channel.

    Each channel is normalised to zero mean and unit deviation over the images and pixels of the batch (N, H, W); the
    loss is ``loss_weight / 2`` times the mean square difference, which is ``loss_weight * (1 - r)`` with the Pearson
    correlation r of each channel, averaged over channels. A student's map of another size is resized to the teacher's
    (bilinear).

    A channel that is constant in the student, such as one that pruning has set to zero, has no correlation: it counts
    1/2 and gets no gradient, where dividing by its deviation of zero would give one without bound.

    Source: Cao et al., "PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient",
    NeurIPS 2022, arXiv 2207.02039. The default weight is that of the authors' Faster R-CNN; their RetinaNet has 10.
    Their code divides by n - 1 in place of n = N * H * W, a difference of 1 / n.

    Args:
        loss_weight (float): Factor of the loss, no unit. Defaults to 6.

    Raises:
        ValueError: If the weight is negative.
    """

    @checked
    def __init__(self, loss_weight: float = 6.0) -> None:
        super().__init__()
        self.loss_weight = check_loss_weight("PearsonDistillationLoss", loss_weight)

    @checked
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            student (Tensor): Features of the network that learns, (N, C, h, w).
            teacher (Tensor): Features of the network that is imitated, (N, C, H, W); detached here.

        Returns:
            Tensor: A scalar.

        Raises:
            ValueError: If images or channels differ.
        """
        check_maps("PearsonDistillationLoss", student, teacher, same_size=False)
        ours, theirs = upcast_half(student), upcast_half(teacher.detach())
        if ours.shape[2:] != theirs.shape[2:]:
            ours = F.interpolate(ours, theirs.shape[2:], mode="bilinear")
        return self.loss_weight / 2 * F.mse_loss(_normalised(ours), _normalised(theirs))


def _normalised(maps: Tensor) -> Tensor:
    deviation, mean = torch.std_mean(maps, dim=(0, 2, 3), correction=0, keepdim=True)
    return torch.where(deviation > 0, (maps - mean) / (deviation + _EPSILON), 0)
