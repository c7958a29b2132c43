"""The projection head of MCL."""

import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor

from mmkdprune.arguments import check_count, checked
from mmkdprune.registry import MODELS

from ..utils import upcast_half


@MODELS.register_module()
class ProjectionHead(BaseModule):
    """Map pooled features to unit embeddings for contrast: two linear layers with a ReLU between them.

    Source: Yang et al., "Mutual Contrastive Learning for Visual Representation Learning", AAAI 2022; the layers are
    those of the authors' code.

    Args:
        in_channels (int): Dimensions of the pooled features.
        out_channels (int): Dimensions of the embeddings. Defaults to 128 (the authors' value).
        hidden_channels (int): Width of the hidden layer. Defaults to 128 (the authors' value).
        init_cfg (dict, optional): Initialisation; PyTorch's defaults (as in the authors' code) without it.
    """

    @checked
    def __init__(
        self, in_channels: int, out_channels: int = 128, hidden_channels: int = 128, init_cfg: dict | None = None
    ) -> None:
        check_count("ProjectionHead: in_channels", in_channels, 1)
        check_count("ProjectionHead: out_channels", out_channels, 1)
        check_count("ProjectionHead: hidden_channels", hidden_channels, 0)
        super().__init__(init_cfg)
        self.out_channels = out_channels
        self.fc1 = nn.Linear(in_channels, hidden_channels)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Linear(hidden_channels, out_channels)

    def forward(self, pooled: Tensor) -> Tensor:
        """Compute embeddings.

        Args:
            pooled (Tensor): Pooled features, (N, in_channels).

        Returns:
            Tensor: Rows of length 1, (N, out_channels), in float32 or wider.
        """
        return F.normalize(upcast_half(self.fc2(self.relu(self.fc1(pooled)))), dim=1)
