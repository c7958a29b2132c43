"""The aggregator of L-MCL: the classifiers of all stages as one online teacher."""

from collections.abc import Sequence

import torch
import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor

from mmkdprune.arguments import check_count, checked
from mmkdprune.registry import MODELS

from ..utils import upcast_half


@MODELS.register_module()
class AggregationHead(BaseModule):
    """Weigh the logits of all stages, image by image, with a gate on their pooled features.

    Source: Yang et al., "Online Knowledge Distillation via Mutual Contrastive Learning for Visual Recognition", TPAMI
    2023; the layers are those of the authors' code.

    Args:
        in_channels (int): Dimensions of the pooled features of a stage, D.
        num_stages (int): Number of stages L.
        init_cfg (dict, optional): Initialisation; PyTorch's defaults (as in the authors' code) without it.
    """

    @checked
    def __init__(self, in_channels: int, num_stages: int, init_cfg: dict | None = None) -> None:
        check_count("AggregationHead: in_channels", in_channels, 1)
        check_count("AggregationHead: num_stages", num_stages, 1)
        super().__init__(init_cfg)
        self.fc1 = nn.Linear(num_stages * in_channels, in_channels)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Linear(in_channels, num_stages)

    def forward(self, pooled: Sequence[Tensor], logits: Sequence[Tensor]) -> Tensor:
        """Compute the mean of the stages' logits with weights that sum to 1.

        Args:
            pooled (Sequence[Tensor]): Pooled features of the L stages, (N, D) each.
            logits (Sequence[Tensor]): Their logits, (N, C) each.

        Returns:
            Tensor: Logits, (N, C).
        """
        gate = self.fc2(self.relu(self.fc1(torch.cat(list(pooled), dim=1))))
        shares = upcast_half(gate).softmax(1)  # (N, L)
        return (shares.unsqueeze(2) * torch.stack(list(logits), dim=1)).sum(1)
