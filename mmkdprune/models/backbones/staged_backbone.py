"""Base of the CIFAR backbones that are a stem, several stages and a tail."""

import itertools
import math
import operator
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn as nn
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from mmkdprune.arguments import checked
from mmkdprune.models.branches import StageOutputs, StageProtocol

_UNIT_NORMS = dict(type="Constant", val=1, layer=["_BatchNorm", "GroupNorm"])
# Normal with variance 2 / (k * k * output channels).
HE_INIT: list[dict] = [dict(type="Kaiming", layer="Conv2d"), _UNIT_NORMS]
# What nn.Conv2d draws for itself. Spelled out, since ConvModule replaces it when it is constructed.
PYTORCH_INIT: list[dict] = [
    dict(
        type="Kaiming",
        layer="Conv2d",
        a=math.sqrt(5),
        mode="fan_in",
        nonlinearity="leaky_relu",
        distribution="uniform",
    ),
    _UNIT_NORMS,
]


class StagedBackbone(BaseBackbone):
    """A backbone with sub-modules ``stem``, ``stage1`` ... ``stageL`` and ``tail``.

    A subclass writes :meth:`make_stem`, :meth:`make_stage` and, where something comes between the last stage and
    pooling, :meth:`make_tail`. They are called by this constructor, so what they need is set before it. They return
    plain ``nn.Sequential`` containers, never a bare ``ConvModule``: as a direct child of the backbone that would redo
    its own initialisation after ``init_cfg``.

    Args:
        stem_channels (int): Channels after the stem.
        stage_channels (Sequence[int]): Channels after each of the L stages.
        stage_strides (Sequence[int]): Stride of each stage.
        feat_dim (int): Channels after the tail.
        in_channels (int): Channels of the images. Defaults to 3.
        out_indices (Sequence[int] | None): Stages to return feature maps of, counted from 0 and returned in this
            order. The last stage stands for what comes after the tail, all others for their raw output. Defaults to
            None, the last stage only.
        frozen_stages (int): -1 freezes nothing, 0 the stem, n the stem and n stages; the tail is frozen with the last
            stage. Frozen modules stay in eval mode and their parameters need no gradient. Defaults to -1.
        norm_eval (bool): Whether batch norms use their running statistics in training, too. Defaults to False.
        norm_cfg (dict | None): Config of the norm layers. Defaults to None, batch norm.
        init_cfg (dict | list[dict] | None): Weight initialisation. Defaults to None, that of the network's authors;
            with one ``Pretrained`` dict, theirs holds for what the checkpoint lacks.

    Attributes:
        num_stages (int): Number of stages L.
        feat_dim (int): Channels after the tail.

    Raises:
        ValueError: If ``out_indices`` or ``frozen_stages`` names a stage that does not exist.
    """

    default_init: list[dict] = HE_INIT

    @checked
    def __init__(
        self,
        stem_channels: int,
        stage_channels: Sequence[int],
        stage_strides: Sequence[int],
        feat_dim: int,
        in_channels: int = 3,
        out_indices: Sequence[int] | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        if init_cfg is None:
            init_cfg = self.default_init
        elif isinstance(init_cfg, dict) and init_cfg.get("type") == "Pretrained":
            init_cfg = [*self.default_init, init_cfg]
        super().__init__(init_cfg)
        self.num_stages = len(stage_channels)
        self.stage_channels = tuple(stage_channels)
        self.stage_strides = tuple(stage_strides)
        self.feat_dim = feat_dim
        self.out_indices = self._check_out_indices(out_indices)
        self.frozen_stages = self._check_frozen_stages(frozen_stages)
        self.norm_eval = norm_eval
        self.norm_cfg = dict(type="BN") if norm_cfg is None else norm_cfg

        self.stem = self.make_stem(in_channels, stem_channels)
        inputs = (stem_channels, *self.stage_channels)
        for index, (channels, stride) in enumerate(zip(self.stage_channels, self.stage_strides, strict=True)):
            self.add_module(f"stage{index + 1}", self.make_stage(index, inputs[index], channels, stride))
        self.tail = self.make_tail(inputs[-1], feat_dim)
        self._freeze()

    @abstractmethod
    def make_stem(self, in_channels: int, out_channels: int) -> nn.Module:
        """Return what comes before the first stage, of stride 1."""

    @abstractmethod
    def make_stage(self, index: int, in_channels: int, out_channels: int, stride: int) -> nn.Module:
        """Return one stage.

        Args:
            index (int): Its index, counted from 0.
            in_channels (int): Channels of its input. For the last stage also ``out_channels``, with stride 1.
            out_channels (int): Channels of its output.
            stride (int): Its stride.
        """

    def make_tail(self, in_channels: int, out_channels: int) -> nn.Module:
        """Return what comes between the last stage and pooling; nothing unless overridden."""
        return nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute feature maps.

        Args:
            x (Tensor): Images, (N, C, H, W).

        Returns:
            tuple[Tensor, ...]: The feature maps that ``out_indices`` asks for, (N, C_l, H_l, W_l) each.
        """
        return self.forward_stages(x).outputs

    def forward_stages(self, x: Tensor) -> StageOutputs:
        """Compute the feature maps after all stages, after the tail, and what :meth:`forward` returns.

        Args:
            x (Tensor): Images, (N, C, H, W).

        Returns:
            StageOutputs: Taps, last map and outputs.
        """
        x = self.stem(x)
        taps = []
        for stage in self.stage_modules():
            x = stage(x)
            taps.append(x)
        last_map = self.tail(x)
        maps = [*taps[:-1], last_map]
        return StageOutputs(taps, last_map, tuple(maps[index] for index in self.out_indices))

    def stage_modules(self) -> list[nn.Module]:
        """Return the L stages in order."""
        return [getattr(self, f"stage{index + 1}") for index in range(self.num_stages)]

    def stage_protocol(self) -> "StagedBackboneStages":
        """Return how to run and copy the stages, for methods with branches."""
        return StagedBackboneStages(self.num_stages)

    def set_widths(self, widths: Mapping[str, int]) -> None:
        """Take note that sub-modules give other numbers of channels than they were built for.

        Args:
            widths (Mapping[str, int]): Channels by name, ``stage1`` ... ``stageL``, ``tail``; absent if unchanged.
        """
        names = [f"stage{index + 1}" for index in range(self.num_stages)]
        known = zip(names, self.stage_channels, strict=True)
        self.stage_channels = tuple(widths.get(name, channels) for name, channels in known)
        has_tail = not isinstance(self.tail, nn.Identity)
        self.feat_dim = widths.get("tail", self.feat_dim) if has_tail else self.stage_channels[-1]

    def train(self, mode: bool = True) -> "StagedBackbone":
        """Set training or eval mode; frozen modules, and with ``norm_eval`` all batch norms, stay in eval mode."""
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        tail = [self.tail] if self.frozen_stages == self.num_stages else []
        for module in (self.stem, *self.stage_modules()[: self.frozen_stages], *tail):
            module.eval()
            module.requires_grad_(False)

    def _check_out_indices(self, out_indices: Sequence[int] | None) -> tuple[int, ...]:
        if out_indices is None:
            return (self.num_stages - 1,)
        if not isinstance(out_indices, Sequence) or not out_indices or set(out_indices) - set(range(self.num_stages)):
            raise ValueError(
                f"{type(self).__name__}: out_indices must be a list of stages from 0 to {self.num_stages - 1}, got "
                f"{out_indices!r}."
            )
        return tuple(out_indices)

    def _check_frozen_stages(self, frozen_stages: int) -> int:
        if frozen_stages not in range(-1, self.num_stages + 1):
            raise ValueError(
                f"{type(self).__name__}: frozen_stages must be -1 (nothing), 0 (the stem) or the number of stages to "
                f"freeze, at most {self.num_stages}, got {frozen_stages!r}."
            )
        return frozen_stages


class StagedBackboneStages(StageProtocol):
    """Stage protocol of :class:`StagedBackbone`.

    Args:
        num_stages (int): Number of stages L.
    """

    def __init__(self, num_stages: int) -> None:
        self.num_stages = num_stages

    def forward(self, backbone: Any, inputs: Tensor) -> StageOutputs:
        """Run the backbone once on images (N, C, H, W)."""
        return backbone.forward_stages(inputs)

    def stages(self, backbone: Any) -> list[nn.Module]:
        """Return the L stages in order."""
        return backbone.stage_modules()

    def tail(self, backbone: Any) -> nn.Module:
        """Return the module between the last stage and pooling."""
        return backbone.tail

    def feature_shapes(self, backbone: Any) -> list[tuple[int, int]]:
        """Return channels and total stride after each stage."""
        strides = itertools.accumulate(backbone.stage_strides, operator.mul)
        return list(zip(backbone.stage_channels, strides, strict=True))

    def out_channels(self, backbone: Any) -> int:
        """Return the channels after the tail."""
        return backbone.feat_dim

    def repeat_last_stage(self, backbone: Any) -> None:
        """Replace the last stage by one of stride 1 whose input has as many channels as its output."""
        channels = backbone.stage_channels[-1]
        stage = backbone.make_stage(self.num_stages - 1, channels, channels, 1)
        setattr(backbone, f"stage{self.num_stages}", stage)
