"""Distillation of the class maps of dense heads: one softened distribution per pixel and anchor."""

import torch.nn.functional as F
from torch import Tensor, nn

from mmkdprune.arguments import check_count, checked
from mmkdprune.registry import MODELS

from ..utils import check_temperature, upcast_half
from .dense_maps import check_loss_weight, check_maps


@MODELS.register_module()
class ClassMapDistillationLoss(nn.Module):
    """Distil the softened class probabilities at every position of a class map.

    ``loss_weight * T^2`` times the divergence KL(teacher || student), averaged over images, pixels and anchors. With
    ``use_sigmoid=False`` a position has one distribution over its classes (softmax); with ``use_sigmoid=True`` each
    class is a decision of its own, and the divergences of the classes are added up.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, section 2, applied at every
    position, as Liu et al., "Structured Knowledge Distillation for Semantic Segmentation", CVPR 2019, do per pixel.

    Args:
        num_classes (int, optional): Number K of classes. The channels are anchors times classes, the classes of one
            anchor next to each other, as in MMDetection. Defaults to None: all channels are classes of one position.
            ``DenseDistillation`` reads it from the head, and ``use_sigmoid`` likewise.
        use_sigmoid (bool): Whether classes are independent of each other. Defaults to False.
        temperature (float): Temperature T > 0 of the logits, no unit. Defaults to 1.
        loss_weight (float): Factor of the loss, no unit. Defaults to 1.

    Raises:
        ValueError: If the temperature is not positive, the weight is negative, or there is no class.
    """

    @checked
    def __init__(
        self,
        num_classes: int | None = None,
        use_sigmoid: bool = False,
        temperature: float = 1.0,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_count("ClassMapDistillationLoss.num_classes", num_classes, 1, optional=True)
        self.num_classes = num_classes
        self.use_sigmoid = use_sigmoid
        self.temperature = check_temperature("ClassMapDistillationLoss", temperature)
        self.loss_weight = check_loss_weight("ClassMapDistillationLoss", loss_weight)

    @checked
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            student (Tensor): Class map of the network that learns, logits, (N, A * K, H, W) with A anchors.
            teacher (Tensor): Class map of the network that is imitated, logits, same shape; detached here.

        Returns:
            Tensor: A scalar.

        Raises:
            ValueError: If the shapes differ, or the channels are not a multiple of the classes.
        """
        check_maps("ClassMapDistillationLoss", student, teacher)
        ours, theirs = (self._per_class(maps) / self.temperature for maps in (student, teacher.detach()))
        if self.use_sigmoid:
            divergence = sum(
                F.kl_div(F.logsigmoid(sign * ours), F.logsigmoid(sign * theirs), reduction="none", log_target=True)
                for sign in (1, -1)
            )
        else:
            divergence = F.kl_div(
                F.log_softmax(ours, dim=2), F.log_softmax(theirs, dim=2), reduction="none", log_target=True
            )
        assert isinstance(divergence, Tensor)
        return self.loss_weight * self.temperature**2 * divergence.sum(2).mean()

    def _per_class(self, maps: Tensor) -> Tensor:
        """Logits of shape (N, A, K, H * W)."""
        classes = maps.shape[1] if self.num_classes is None else self.num_classes
        if maps.shape[1] % classes:
            raise ValueError(
                f"ClassMapDistillationLoss: {maps.shape[1]} channels are not a multiple of num_classes={classes}: set "
                "num_classes to that of the head, without those of its other outputs."
            )
        return upcast_half(maps).flatten(2).unflatten(1, (-1, classes))
