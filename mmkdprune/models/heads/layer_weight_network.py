"""The weight network of L-MCL: how much each pair of layers should learn from each other."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor

from mmkdprune.arguments import check_count, checked
from mmkdprune.registry import MODELS

from ..utils import upcast_half, without_autocast


@MODELS.register_module()
class LayerWeightNetwork(BaseModule):
    """Weigh pairs of layers of different networks, image by image: the sigmoid of a product of unit projections.

    Weights lie between sigmoid(-1) = 0.27 and sigmoid(1) = 0.73. The parameters need no gradient on purpose: they get
    theirs from the meta step, outside of the loss, so that optimizer and ``DistributedDataParallel`` pass them by.

    Source: Yang et al., "Online Knowledge Distillation via Mutual Contrastive Learning for Visual Recognition", TPAMI
    2023; the layers are those of the authors' code.

    Args:
        in_channels (Sequence[int]): Dimensions of the pooled features of each network, D_i.
        num_stages (int): Number of stages L.
        out_channels (int): Dimensions of the projections. Defaults to 128 (the authors' value).
        init_cfg (dict, optional): Initialisation; PyTorch's defaults (as in the authors' code) without it.
    """

    @checked
    def __init__(
        self, in_channels: Sequence[int], num_stages: int, out_channels: int = 128, init_cfg: dict | None = None
    ) -> None:
        check_count("LayerWeightNetwork: number of in_channels", len(in_channels), 1)
        for channels in in_channels:
            check_count("LayerWeightNetwork: in_channels", channels, 1)
        check_count("LayerWeightNetwork: num_stages", num_stages, 1)
        check_count("LayerWeightNetwork: out_channels", out_channels, 1)
        super().__init__(init_cfg)
        self.projections = nn.ModuleList(
            nn.ModuleList(nn.Linear(channels, out_channels) for _ in range(num_stages)) for channels in in_channels
        )
        self.requires_grad_(False)

    def forward(self, pooled: Sequence[Sequence[Tensor]]) -> Tensor:
        """Compute the weights.

        Args:
            pooled (Sequence[Sequence[Tensor]]): Pooled features of the L stages of each of M networks, (N, D_i) each.

        Returns:
            Tensor: Weights, (M, L, M, L, N), symmetric in the two layers.
        """
        networks: Iterable[Any] = self.projections
        projected = [
            torch.stack([layer(rows) for layer, rows in zip(layers, stages, strict=True)])
            for layers, stages in zip(networks, pooled, strict=True)
        ]
        units = F.normalize(upcast_half(torch.stack(projected)), dim=-1)  # (M, L, N, out_channels)
        with without_autocast(units):
            return torch.einsum("ilnd,jmnd->iljmn", units, units).sigmoid()
