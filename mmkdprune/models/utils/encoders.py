"""Networks that map images to unit embeddings: queries learn by gradients, keys follow them slowly."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmkdprune.registry import MODELS

from .precision import upcast_half


def unit_embeddings(backbone: nn.Module, neck: nn.Module, images: Tensor) -> Tensor:
    """Run backbone and neck and scale each row to length 1.

    Args:
        backbone (nn.Module): Maps images to feature maps.
        neck (nn.Module): Maps those to embeddings, (N, D), or to a tuple that ends in them.
        images (Tensor): Normalised images, (N, C, H, W).

    Returns:
        Tensor: Unit rows, (N, D), in float32 or wider.

    Raises:
        ValueError: If the neck returns anything else.
    """
    outputs = neck(backbone(images))
    rows = outputs[-1] if isinstance(outputs, tuple | list) else outputs
    if not isinstance(rows, Tensor) or rows.ndim != 2:
        found = f"shape {tuple(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
        raise ValueError(
            f"the neck {type(neck).__name__} must give one embedding an image, (N, D), got {found}: take "
            "MoCoV2Neck(in_channels=..., hid_channels=..., out_channels=...), or LinearNeck(in_channels=..., "
            "out_channels=..., gap_dim=2, norm_cfg=None)."
        )
    return F.normalize(upcast_half(rows), dim=1)


class QueryEncoder(BaseModule):
    """A backbone with its neck, as a network beside the deployable one.

    Args:
        backbone (dict): Config of the backbone.
        neck (dict): Config of the neck.
    """

    def __init__(self, backbone: Mapping[str, Any], neck: Mapping[str, Any]) -> None:
        super().__init__()
        self.backbone = MODELS.build(dict(backbone))
        self.neck = MODELS.build(dict(neck))

    def forward(self, images: Tensor) -> Tensor:
        """Compute unit embeddings (N, D) of images (N, C, H, W)."""
        return unit_embeddings(self.backbone, self.neck, images)


class MomentumEncoder(nn.Module):
    """A copy of a network whose parameters are moving averages of the network's; no gradient reaches it.

    Batch norm statistics are its own: it runs in training mode, on batches of its own.

    Source: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020, equation 2.

    Args:
        backbone (nn.Module): The network's backbone, which is copied.
        neck (nn.Module): Its neck, likewise.
        momentum (float): Share of the network's parameters in the new average (1 minus the paper's m).
    """

    def __init__(self, backbone: nn.Module, neck: nn.Module, momentum: float) -> None:
        super().__init__()
        self.backbone, self.neck = copy.deepcopy(backbone), copy.deepcopy(neck)
        self.momentum = momentum
        self.requires_grad_(False)
        # Weights are initialised or loaded after this; the first update takes them over, unless a checkpoint has ours.
        self._has_started = False

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Compute unit embeddings (N, D) of images (N, C, H, W)."""
        return unit_embeddings(self.backbone, self.neck, images)

    @torch.no_grad()
    def update(self, backbone: nn.Module, neck: nn.Module) -> None:
        """Move the parameters towards those of the network.

        Args:
            backbone (nn.Module): The network's backbone.
            neck (nn.Module): Its neck.
        """
        targets: list[Tensor] = [*self.parameters()]
        sources: list[Tensor] = [*backbone.parameters(), *neck.parameters()]
        torch._foreach_lerp_(targets, sources, self.momentum if self._has_started else 1.0)
        self._has_started = True

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        state, prefix = args[:2]
        self._has_started |= any(key.startswith(prefix) for key in state)
        super()._load_from_state_dict(*args, **kwargs)
