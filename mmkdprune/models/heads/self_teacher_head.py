"""The self-teacher of MixSKD."""

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor

from mmkdprune.arguments import check_count, checked
from mmkdprune.registry import MODELS


@MODELS.register_module()
class SelfTeacherHead(BaseModule):
    """Classify the feature maps of all heads together: concatenate, 1x1 convolution, average pooling, linear layer.

    The convolution has no bias, no norm and no activation, so the head is affine in its input. Pooling before the
    convolution gives the same logits at 1/(h w) of its cost, and is what :meth:`forward` does.

    Source: Yang et al., "MixSKD", ECCV 2022 (self-teacher network); the layers are those of the authors' code.

    Args:
        in_channels (int): Channels of each feature map, D.
        num_feats (int): Number of feature maps, K.
        num_classes (int): Number of classes C.
        init_cfg (dict, optional): Initialisation; PyTorch's defaults (as in the authors' code) without it.
    """

    @checked
    def __init__(self, in_channels: int, num_feats: int, num_classes: int, init_cfg: dict | None = None) -> None:
        check_count("SelfTeacherHead: in_channels", in_channels, 1)
        check_count("SelfTeacherHead: num_feats", num_feats, 1)
        check_count("SelfTeacherHead: num_classes", num_classes, 1)
        super().__init__(init_cfg)
        self.conv = nn.Conv2d(num_feats * in_channels, in_channels, 1, bias=False)
        self.fc = nn.Linear(in_channels, num_classes)

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Compute the self-teacher's logits.

        Args:
            feats (Sequence[Tensor]): K feature maps (N, D, h, w), or their spatial means (N, D).

        Returns:
            Tensor: Logits, (N, C).
        """
        pooled = torch.cat([feat.mean((2, 3)) if feat.ndim == 4 else feat for feat in feats], dim=1)  # (N, K * D)
        return self.fc(F.linear(pooled, self.conv.weight.flatten(1)))
