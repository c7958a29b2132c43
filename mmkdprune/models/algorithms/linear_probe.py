"""A classifier whose backbone stays as it is: linear evaluation with MMPretrain's heads."""

from typing import Any

from mmpretrain.models.classifiers import ImageClassifier
from torch import nn

from mmkdprune.arguments import checked
from mmkdprune.registry import MODELS


@MODELS.register_module()
class LinearProbe(ImageClassifier):
    """An ``ImageClassifier`` that trains its head only; the backbone needs no gradients and stays in eval mode.

    Weights and running statistics of *any* backbone are bit by bit the same afterwards, also of those without
    ``frozen_stages``. Give the backbone ``init_cfg=dict(type='Pretrained', checkpoint=..., prefix='backbone.')``.

    Source: the protocol of MoCo (He et al., CVPR 2020, section 4.1), and of HSAKD's transfer experiments.

    Args:
        backbone (dict | nn.Module): As in MMPretrain's ``ImageClassifier``.
        **kwargs: Likewise: ``neck``, ``head``, ...
    """

    trains_whole = True  # cannot be split over processes (mmkdprune.engine.wrapping)

    @checked
    def __init__(self, backbone: dict | nn.Module, **kwargs: Any) -> None:
        super().__init__(backbone, **kwargs)
        self.backbone.requires_grad_(False)
        self.backbone.eval()

    def train(self, mode: bool = True) -> "LinearProbe":
        """Set training or eval mode of everything but the backbone."""
        super().train(mode)
        self.backbone.eval()
        self.backbone.requires_grad_(False)  # a backbone's own train() may have set it
        return self
