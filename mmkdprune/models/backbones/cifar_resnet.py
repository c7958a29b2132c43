"""The residual networks of the CIFAR tables."""

from collections.abc import Sequence
from typing import Any

import torch.nn as nn
import torch.nn.functional as F
from mmpretrain.models.backbones.resnet import BasicBlock, Bottleneck
from mmpretrain.models.backbones.resnet_cifar import ResNet_CIFAR
from torch import Tensor

from mmkdprune.arguments import check_count, checked
from mmkdprune.registry import MODELS


class PaddedShortcut(nn.Module):
    """Shortcut without parameters: every ``stride``-th pixel, and zeros for the channels that are new.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 3.3, option A.

    Args:
        in_channels (int): Channels of the block's input.
        out_channels (int): Channels of its output.
        stride (int): Stride of the block.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride, self.new_channels = stride, out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


@MODELS.register_module()
class CifarResNet(ResNet_CIFAR):
    """Three-stage ResNet for small images: ResNet-8/20/32/44/56/110 and the wide ResNet-8x4, 32x4.

    A 3x3 stem and three stages of post-activation blocks with strides 1, 2, 2; not to be confused with MMPretrain's
    four-stage ``ResNet_CIFAR``, whose blocks and stem it uses. Add a ``GlobalAveragePooling`` neck and a
    ``LinearClsHead`` with ``in_channels`` = the backbone's ``feat_dim``.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2; the variants are those
    of the HSAKD and MCL repositories.

    Args:
        depth (int | str): 8, 20, 32, 44, 56, 110, ``'8x4'`` or ``'32x4'``.
        block (str | None): ``'basic'`` or ``'bottleneck'``. None takes what the tables use: bottlenecks (expansion 4)
            for 110, basic blocks otherwise.
        shortcut (str): ``'projection'`` (default), a convolution where the width changes, as in the distillation
            papers; ``'pad'``, without parameters, as in the pruning papers.
        zero_init_residual (bool): Start residual branches at zero. Defaults to False, as in all papers' networks.
        **kwargs: Of MMPretrain's ``ResNet``: ``in_channels, out_indices, frozen_stages, norm_cfg, norm_eval, with_cp,
            init_cfg, ...``

    Raises:
        ValueError: If the depth or the block is unknown, or the depth does not fit the block.
    """

    blocks = {"basic": (BasicBlock, 2), "bottleneck": (Bottleneck, 3)}
    # depth: (layers in total, stem channels, width of the first stage, default block)
    variants: dict[str, tuple[int, int, int, str]] = {
        **{str(depth): (depth, 16, 16, "basic") for depth in (8, 20, 32, 44, 56)},
        "110": (110, 16, 16, "bottleneck"),
        "8x4": (8, 32, 64, "basic"),
        "32x4": (32, 32, 64, "basic"),
    }

    @checked
    def __init__(
        self,
        depth: int | str,
        block: str | None = None,
        num_stages: int = 3,
        strides: Sequence[int] = (1, 2, 2),
        dilations: Sequence[int] = (1, 1, 1),
        out_indices: Sequence[int] = (2,),
        zero_init_residual: bool = False,
        shortcut: str = "projection",
        **kwargs: Any,
    ) -> None:
        _check_stages(num_stages, strides, dilations, out_indices, kwargs)
        if shortcut not in ("projection", "pad"):
            raise ValueError(f"CifarResNet: shortcut must be 'projection' or 'pad', got {shortcut!r}.")
        if str(depth) not in self.variants:
            raise ValueError(f"CifarResNet: depth must be one of {list(self.variants)}, got {depth!r}.")
        layers, stem_channels, base_channels, default_block = self.variants[str(depth)]
        block = default_block if block is None else block
        if block not in self.blocks:
            raise ValueError(f"CifarResNet: block must be one of {list(self.blocks)} or None, got {block!r}.")
        block_class, layers_a_block = self.blocks[block]
        if (layers - 2) % (3 * layers_a_block):
            raise ValueError(f"CifarResNet: depth {depth} cannot be built from {block} blocks.")
        num_blocks = (layers - 2) // (3 * layers_a_block)
        # Read by ResNet.__init__; kept on the instance so that the class attribute stays MMPretrain's.
        self.arch_settings = {depth: (block_class, (num_blocks,) * 3)}
        super().__init__(
            depth,
            stem_channels=stem_channels,
            base_channels=base_channels,
            num_stages=num_stages,
            strides=strides,
            dilations=dilations,
            out_indices=out_indices,
            zero_init_residual=zero_init_residual,
            **kwargs,
        )
        if shortcut == "pad":
            for block in self.modules():
                if isinstance(block, (BasicBlock, Bottleneck)) and block.downsample is not None:
                    block.downsample = PaddedShortcut(block.in_channels, block.out_channels, block.stride)


def _check_stages(
    num_stages: int, strides: Sequence[int], dilations: Sequence[int], out_indices: Sequence[int], more: dict[str, Any]
) -> None:
    check_count("CifarResNet: in_channels", more.get("in_channels", 3), 1)
    if not 1 <= num_stages <= 3:
        raise ValueError(f"CifarResNet: num_stages must be 1, 2 or 3, got {num_stages!r}.")
    for name, values in (("strides", strides), ("dilations", dilations)):
        if len(values) != num_stages or min(values) < 1:
            raise ValueError(
                f"CifarResNet: {name} must be {num_stages} positive numbers, one per stage, got {values!r}."
            )
    if not out_indices or not all(0 <= index < num_stages for index in out_indices):
        raise ValueError(
            f"CifarResNet: out_indices must be some of the stages 0 ... {num_stages - 1}, got {out_indices!r}."
        )
    frozen = more.get("frozen_stages", -1)
    if not isinstance(frozen, int) or not -1 <= frozen <= num_stages:
        raise ValueError(f"CifarResNet: frozen_stages must be -1 (none) ... {num_stages}, got {frozen!r}.")


@MODELS.register_module()
class LinearStemResNetCIFAR(ResNet_CIFAR):
    """MMPretrain's ``ResNet_CIFAR`` without an activation after the stem's convolution and norm.

    The network of the MixSKD authors' CIFAR script, kept for comparisons; their baseline and every other paper have
    the activation. Same keys as ``ResNet_CIFAR``.
    """

    def _make_stem_layer(self, in_channels: int, base_channels: int) -> None:
        super()._make_stem_layer(in_channels, base_channels)
        self.relu = nn.Identity()
