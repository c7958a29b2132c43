"""Channel-wise distillation of class maps and feature maps (Shu et al., 2021)."""

import torch.nn.functional as F
from torch import Tensor, nn

from mmkdprune.arguments import checked
from mmkdprune.registry import MODELS

from ..utils import check_temperature, upcast_half
from .dense_maps import check_loss_weight, check_maps


@MODELS.register_module()
class ChannelWiseDistillationLoss(nn.Module):
    """Distil where in the image each channel is active.

    Each channel of an image becomes a distribution over its pixels, by a softmax with temperature T over H * W; the
    loss is ``loss_weight * T^2 / (N * C) * sum_nc KL(teacher || student)``. How large a channel is as a whole does not
    count: a constant added to a channel changes nothing.

    Source: Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021, arXiv 2011.13256,
    equations 3 and 4. The defaults are those of the authors' command for logits (``exp_cwd.sh channel kl 3 4``).

    Args:
        temperature (float): Softmax temperature T > 0, no unit. Defaults to 4.
        loss_weight (float): Factor of the loss, no unit. Defaults to 3, for the logits of segmentors.

    Raises:
        ValueError: If the temperature is not positive, or the weight is negative.
    """

    @checked
    def __init__(self, temperature: float = 4.0, loss_weight: float = 3.0) -> None:
        super().__init__()
        self.temperature = check_temperature("ChannelWiseDistillationLoss", temperature)
        self.loss_weight = check_loss_weight("ChannelWiseDistillationLoss", loss_weight)

    @checked
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            student (Tensor): Map of the network that learns, (N, C, H, W).
            teacher (Tensor): Map of the network that is imitated, (N, C, H, W); detached here.

        Returns:
            Tensor: A scalar.

        Raises:
            ValueError: If the shapes differ.
        """
        check_maps("ChannelWiseDistillationLoss", student, teacher)
        ours, theirs = (
            F.log_softmax(upcast_half(maps).flatten(2) / self.temperature, dim=2)
            for maps in (student, teacher.detach())
        )
        divergence = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(2)  # (N, C)
        return self.loss_weight * self.temperature**2 * divergence.mean()
