"""The feature discriminator of MixSKD."""

import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor

from mmkdprune.arguments import check_count, checked
from mmkdprune.registry import MODELS


@MODELS.register_module()
class DiscriminatorHead(BaseModule):
    """Tell interpolated feature maps from feature maps of mixed images: average pooling, two linear layers.

    Source: Yang et al., "MixSKD", ECCV 2022; the layers are those of the authors' code.

    Args:
        in_channels (int): Channels of the feature map, D.
        hidden_channels (int): Width of the hidden layer. Defaults to 128 (the authors' value).
        init_cfg (dict, optional): Initialisation; PyTorch's defaults (as in the authors' code) without it.
    """

    @checked
    def __init__(self, in_channels: int, hidden_channels: int = 128, init_cfg: dict | None = None) -> None:
        check_count("DiscriminatorHead: in_channels", in_channels, 1)
        check_count("DiscriminatorHead: hidden_channels", hidden_channels, 1)
        super().__init__(init_cfg)
        self.fc1 = nn.Linear(in_channels, hidden_channels)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Linear(hidden_channels, 2)

    def forward(self, feat: Tensor) -> Tensor:
        """Compute the logits of "interpolated" and "mixed".

        Args:
            feat (Tensor): Feature map (N, D, h, w), or its spatial mean (N, D).

        Returns:
            Tensor: Logits, (N, 2).
        """
        pooled = feat.mean((2, 3)) if feat.ndim == 4 else feat
        return self.fc2(self.relu(self.fc1(pooled)))
