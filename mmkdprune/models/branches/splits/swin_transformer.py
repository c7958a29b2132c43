"""Stages of MMPretrain's Swin Transformer."""

from collections.abc import Sequence
from typing import Any

import torch.nn as nn
from mmpretrain.models.backbones.swin_transformer import SwinTransformer
from mmpretrain.models.utils import resize_pos_embed
from torch import Tensor

from ..stage_protocol import StageOutputs, StageProtocol


def to_map(tokens: Tensor, size: Sequence[int]) -> Tensor:
    """Arrange tokens, (N, H * W, C), as a feature map, (N, C, H, W), without copying them."""
    return tokens.unflatten(1, tuple(size)).permute(0, 3, 1, 2)


class SwinStage(nn.Module):
    """Patch merging and blocks of windows that take and give feature maps.

    Args:
        downsample (nn.Module, optional): Patch merging; None keeps resolution and channels.
        blocks (Sequence[nn.Module]): Blocks that map tokens and their height and width to tokens.
    """

    def __init__(self, downsample: nn.Module | None, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)

    def forward(self, feat: Tensor) -> Tensor:
        """Map (N, C, H, W) to the feature map of the next stage."""
        size, tokens = feat.shape[-2:], feat.flatten(2).transpose(1, 2)
        if self.downsample is not None:
            tokens, size = self.downsample(tokens, tuple(size))
        for block in self.blocks:
            tokens = block(tokens, tuple(size))
        return to_map(tokens, size)

    def shortened(self, number: int) -> "SwinStage":
        """Return the merging and the first blocks."""
        return SwinStage(self.downsample, list(self.blocks)[:number])


class TokenNorm(nn.Module):
    """A norm over the channels of each pixel.

    Args:
        norm (nn.Module): The norm of tokens, (N, L, C).
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, feat: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        tokens = self.norm(feat.flatten(2).transpose(1, 2))
        return to_map(tokens, feat.shape[-2:]).contiguous()


class SwinTransformerStages(StageProtocol):
    """Stages of the Swin Transformer: blocks, with the patch merging before them; the last norm is a tail.

    Taps are feature maps without norm.

    Args:
        backbone (SwinTransformer): The backbone.
    """

    def __init__(self, backbone: SwinTransformer) -> None:
        self.num_stages = len(backbone.stages)

    def stages(self, backbone: Any) -> list[nn.Module]:
        """Return patch merging and blocks of each stage; the stem is not part of the first."""
        merging = [None, *(stage.downsample for stage in backbone.stages[:-1])]
        return [SwinStage(layer, list(stage.blocks)) for layer, stage in zip(merging, backbone.stages, strict=True)]

    def tail(self, backbone: Any) -> nn.Module:
        """Return the norm of the last feature map."""
        norm = getattr(backbone, f"norm{self.num_stages - 1}", None)
        return nn.Identity() if norm is None else TokenNorm(norm)

    def forward(self, backbone: Any, inputs: Tensor) -> StageOutputs:
        """Run stem, stages and norms."""
        x, size = backbone.patch_embed(inputs)
        if backbone.use_abs_pos_embed:
            x = x + resize_pos_embed(
                backbone.absolute_pos_embed,
                backbone.patch_resolution,
                size,
                backbone.interpolate_mode,
                backbone.num_extra_tokens,
            )
        x = backbone.drop_after_pos(x)
        taps, outputs = [], []
        for index, stage in enumerate(backbone.stages):
            x, _ = stage(x, size, do_downsample=False)
            taps.append(to_map(x, size))
            merged, merged_size = (x, size) if stage.downsample is None else stage.downsample(x, size)
            if index in backbone.out_indices:
                returned, shape = (merged, merged_size) if backbone.out_after_downsample else (x, size)
                outputs.append(to_map(getattr(backbone, f"norm{index}")(returned), shape).contiguous())
            x, size = merged, merged_size
        last_is_returned = self.num_stages - 1 in backbone.out_indices
        return StageOutputs(taps, outputs[-1] if last_is_returned else taps[-1], tuple(outputs))

    def modules_after_stages(self, backbone: Any) -> list[nn.Module]:
        """Return the last norm."""
        return [self.tail(backbone)]

    def feature_shapes(self, backbone: Any) -> list[tuple[int, int]]:
        """Return channels and total stride after each stage."""
        widths = [stage.embed_dims for stage in backbone.stages]
        stride = backbone.patch_embed.projection.stride[0]
        shapes = []
        for width, stage in zip(widths, backbone.stages, strict=True):
            shapes.append((width, stride))
            stride *= 1 if stage.downsample is None else stage.downsample.sampler.stride[0]
        return shapes

    def output_channels(self, backbone: Any) -> list[int]:
        """Return the channels of what the backbone returns for each stage."""
        return list(backbone.num_features)

    def repeat_last_stage(self, backbone: Any) -> None:
        """Leave the patch merging before the last stage out."""
        backbone.stages[-2].downsample = None
