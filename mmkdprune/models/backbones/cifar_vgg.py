"""The VGG networks of the CIFAR tables."""

from typing import Any

import torch.nn as nn
from mmpretrain.models.utils import build_norm_layer

from mmkdprune.arguments import check_count, checked
from mmkdprune.registry import MODELS

from .staged_backbone import StagedBackbone

WIDTHS = (64, 128, 256, 512, 512)


@MODELS.register_module()
class CifarVGG(StagedBackbone):
    """VGG with batch norm for small images, without fully connected layers: VGG-8, 11, 13, 16 and 19.

    Five blocks of 3x3 convolutions (with bias), norms and ReLUs, of 64, 128, 256, 512 and 512 channels, with a 2x2
    max-pooling after each of the first three. There are four stages: one for each of the first three blocks and one for
    the last two; a stage starts with the pooling before it. There is no stem, so ``frozen_stages=0`` freezes nothing.
    Add a ``GlobalAveragePooling`` neck and a ``LinearClsHead`` with ``in_channels`` = the backbone's ``feat_dim``.

    Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015; the
    variants for CIFAR are those of the CRD and HSAKD repositories.

    Args:
        depth (int): 8, 11, 13, 16 or 19. Defaults to 13.
        pool_last_block (bool): Whether to pool before the last block, too, as the authors do for images of 64 px and
            for no others. Defaults to False, for images of 32 px.
        in_channels (int): Channels of the images. Defaults to 3.
        **kwargs: Of :class:`StagedBackbone`: ``out_indices, frozen_stages, norm_eval, norm_cfg,
            init_cfg``.

    Raises:
        ValueError: If the depth is unknown.
    """

    # depth: number of convolutions in each block
    variants = {
        8: (1, 1, 1, 1, 1),
        11: (1, 1, 2, 2, 2),
        13: (2, 2, 2, 2, 2),
        16: (2, 2, 3, 3, 3),
        19: (2, 2, 4, 4, 4),
    }

    @checked
    def __init__(self, depth: int = 13, pool_last_block: bool = False, in_channels: int = 3, **kwargs: Any) -> None:
        if depth not in self.variants:
            raise ValueError(f"CifarVGG: depth must be one of {list(self.variants)}, got {depth!r}.")
        check_count("CifarVGG: in_channels", in_channels, 1)
        self.num_convolutions = self.variants[depth]
        super().__init__(
            stem_channels=in_channels,
            stage_channels=WIDTHS[:4],
            stage_strides=(1, 2, 2, 4 if pool_last_block else 2),
            feat_dim=WIDTHS[-1],
            in_channels=in_channels,
            **kwargs,
        )

    def make_stem(self, in_channels: int, out_channels: int) -> nn.Module:
        """Return an identity: the first block takes the images."""
        return nn.Identity()

    def make_stage(self, index: int, in_channels: int, out_channels: int, stride: int) -> nn.Module:
        """Return one block, or the last two; stride 4 pools before both of these."""
        blocks = [self._make_block(index, in_channels, stride > 1)]
        if index == self.num_stages - 1:
            blocks.append(self._make_block(index + 1, out_channels, stride > 2))
        return nn.Sequential(*blocks)

    def _make_block(self, block: int, channels: int, pool: bool) -> nn.Sequential:
        layers: list[nn.Module] = [nn.MaxPool2d(2)] if pool else []
        # Not ConvModule, which warns of a bias before a norm.
        for _ in range(self.num_convolutions[block]):
            layers += [
                nn.Conv2d(channels, WIDTHS[block], 3, padding=1),
                build_norm_layer(self.norm_cfg, WIDTHS[block]),
                nn.ReLU(inplace=True),
            ]
            channels = WIDTHS[block]
        return nn.Sequential(*layers)
