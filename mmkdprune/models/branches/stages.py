"""The stage protocol: how a backbone splits into a stem and stages.

Methods that need feature maps after every stage, or fresh copies of the later stages, ask this file and never a
backbone's config. So the deployable network keeps its keys and its ``out_indices``.

A backbone class supports the protocol in one of three ways, tried in this order:

1. It has a method ``stage_protocol()`` that returns a :class:`StageProtocol`.
2. It is registered here with :func:`register_stage_protocol` (MMPretrain's ResNet line and ShuffleNetV2 are).
3. Its stages are found by tracing one small image (:class:`TracedStages`); branches are then convolutional, since
   nothing is known about how the stages could be rebuilt.
"""

import copy
from collections.abc import Callable
from typing import Any, cast

import torch.nn as nn
from mmengine.model import BaseModule
from mmpretrain.models.backbones.resnet import ResNet
from mmpretrain.models.backbones.resnet_cifar import ResNet_CIFAR
from mmpretrain.models.backbones.shufflenet_v2 import InvertedResidual, ShuffleNetV2
from torch import Tensor

from .stage_protocol import StageOutputs, StageProtocol
from .traced_stages import TracedStages


class ResNetStages:
    """Stages of MMPretrain's ResNet line: ``layer1`` ... ``layerL`` after a stem."""

    can_copy = True

    def __init__(self, backbone: ResNet) -> None:
        self.num_stages = len(backbone.res_layers)

    def stages(self, backbone: Any) -> list[nn.Module]:
        """Return the residual layers."""
        return [getattr(backbone, name) for name in backbone.res_layers]

    def tail(self, backbone: Any) -> nn.Module:
        """Return an identity: pooling follows the last stage."""
        return nn.Identity()

    def forward(self, backbone: Any, inputs: Tensor) -> StageOutputs:
        """Run stem and stages."""
        x = self._stem(backbone, inputs)
        taps = []
        for stage in self.stages(backbone):
            x = stage(x)
            taps.append(x)
        outputs = tuple(tap for index, tap in enumerate(taps) if index in backbone.out_indices)
        return StageOutputs(taps, taps[-1], outputs)

    def feature_shapes(self, backbone: Any) -> list[tuple[int, int]]:
        """Return channels and total stride after each stage."""
        stride = 1 if isinstance(backbone, ResNet_CIFAR) else 4
        shapes = []
        for name, stage_stride in zip(backbone.res_layers, backbone.strides, strict=True):
            stride *= stage_stride
            shapes.append((getattr(backbone, name)[-1].out_channels, stride))
        return shapes

    def out_channels(self, backbone: Any) -> int:
        """Return the channels of the last stage."""
        return self.stages(backbone)[-1][-1].out_channels  # type: ignore[index]

    def repeat_last_stage(self, backbone: Any) -> None:
        """Replace the last stage by one of as many blocks with stride 1 and no change of channels."""
        channels = self.out_channels(backbone)
        stage = backbone.make_res_layer(
            block=backbone.block,
            num_blocks=backbone.stage_blocks[-1],
            in_channels=channels,
            out_channels=channels,
            expansion=backbone.expansion,
            stride=1,
            dilation=backbone.dilations[-1],
            style=backbone.style,
            avg_down=backbone.avg_down,
            with_cp=backbone.with_cp,
            conv_cfg=backbone.conv_cfg,
            norm_cfg=backbone.norm_cfg,
        )
        setattr(backbone, backbone.res_layers[-1], stage)

    @staticmethod
    def _stem(backbone: Any, inputs: Tensor) -> Tensor:
        if backbone.deep_stem:
            return backbone.maxpool(backbone.stem(inputs))
        x = backbone.relu(backbone.norm1(backbone.conv1(inputs)))
        return x if isinstance(backbone, ResNet_CIFAR) else backbone.maxpool(x)


class ShuffleNetV2Stages:
    """Stages of MMPretrain's ShuffleNetV2: the pooled stem counts as the first, and the last 1x1 convolution is a tail.

    A feature map with a quarter of the resolution comes from the stem alone; other networks have a stage there.
    """

    can_copy = True
    num_stages = 4

    def __init__(self, backbone: ShuffleNetV2) -> None:
        pass

    def stages(self, backbone: Any) -> list[nn.Module]:
        """Return the stem and the three stages."""
        return [nn.Sequential(backbone.conv1, backbone.maxpool), *backbone.layers[:3]]

    def tail(self, backbone: Any) -> nn.Module:
        """Return the last convolution with norm and activation."""
        return backbone.layers[3]

    def forward(self, backbone: Any, inputs: Tensor) -> StageOutputs:
        """Run stem, stages and tail."""
        taps = [backbone.maxpool(backbone.conv1(inputs))]
        for stage in backbone.layers[:3]:
            taps.append(stage(taps[-1]))
        last_map = self.tail(backbone)(taps[-1])
        maps = [*taps[1:], last_map]
        return StageOutputs(taps, last_map, tuple(map_ for i, map_ in enumerate(maps) if i in backbone.out_indices))

    def feature_shapes(self, backbone: Any) -> list[tuple[int, int]]:
        """Return channels and total stride after each stage."""
        channels = [stage[-1].branch2[-1].out_channels * 2 for stage in backbone.layers[:3]]
        return [(backbone.conv1.out_channels, 4), *zip(channels, (8, 16, 32), strict=True)]

    def out_channels(self, backbone: Any) -> int:
        """Return the channels after the last convolution."""
        return self.tail(backbone).out_channels  # type: ignore[return-value]

    def repeat_last_stage(self, backbone: Any) -> None:
        """Replace the last stage by as many blocks of stride 1, which leave half of their channels as they are."""
        channels = self.feature_shapes(backbone)[-1][0]
        settings = {name: getattr(backbone, name) for name in ("conv_cfg", "norm_cfg", "act_cfg", "with_cp")}
        blocks = [InvertedResidual(channels, channels, **settings) for _ in range(backbone.stage_blocks[-1])]
        backbone.layers[2] = nn.Sequential(*blocks)


StageProtocolFactory = Callable[[nn.Module], StageProtocol]
_PROTOCOLS: dict[Callable, StageProtocolFactory] = {}


def register_stage_protocol(backbone_class: type[nn.Module], factory: StageProtocolFactory) -> None:
    """Teach the protocol a backbone class.

    Args:
        backbone_class (type): A backbone. Subclasses are covered as long as they keep its ``forward``: one that
            overrides it may do anything, and is traced instead.
        factory (Callable): Makes a :class:`StageProtocol` from a backbone instance.
    """
    _PROTOCOLS[backbone_class.forward] = factory


register_stage_protocol(ResNet, ResNetStages)
register_stage_protocol(ResNet_CIFAR, ResNetStages)
register_stage_protocol(ShuffleNetV2, ShuffleNetV2Stages)


def find_stage_protocol(backbone: nn.Module) -> StageProtocol:
    """Find how a backbone splits into stages.

    Args:
        backbone (nn.Module): Any backbone that maps images to feature maps.

    Returns:
        StageProtocol: The protocol to run and copy its stages with.

    Raises:
        ValueError: If fewer than two stages can be found.
    """
    own = getattr(backbone, "stage_protocol", None)
    factory = _PROTOCOLS.get(type(backbone).forward)
    if callable(own):
        protocol = own()
    else:
        protocol = factory(backbone) if factory is not None else TracedStages(backbone)
    if protocol.num_stages < 2:
        raise ValueError(
            f"backbone {type(backbone).__name__} gives {protocol.num_stages} stage(s) of feature maps, but this method "
            "needs at least two: use a backbone with several stages of 4-dimensional feature maps (ResNet, ConvNeXt, "
            "MobileNet, VGG, ...), or raise its num_stages."
        )
    return cast(StageProtocol, protocol)


def fresh_copy(backbone: nn.Module, change: Callable[[nn.Module], None] | None = None) -> nn.Module:
    """Return an independent, newly initialised copy of a backbone.

    Frozen stages are trainable again and pretrained weights are not loaded: the copy starts from random weights, as
    the backbone's own ``init_weights`` draws them.

    Args:
        backbone (nn.Module): The backbone to copy.
        change (Callable, optional): Changes the copy in place before it is initialised.

    Returns:
        nn.Module: The copy, in training mode.
    """
    duplicate = copy.deepcopy(backbone)
    if change is not None:
        change(duplicate)
    for module in duplicate.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
        if isinstance(module, BaseModule):
            module.is_init = False
            module.init_cfg = _without_pretrained(module.init_cfg)
    duplicate.requires_grad_(True)
    if isinstance(duplicate, BaseModule):
        duplicate._dump_init_info = lambda: None  # the copy is taken apart, a report of its weights only confuses
        duplicate.init_weights()
    nn.Module.train(duplicate)  # a backbone's own train() may freeze stages again
    return duplicate


def _without_pretrained(init_cfg):
    if isinstance(init_cfg, dict):
        return None if init_cfg.get("type") == "Pretrained" else init_cfg
    if isinstance(init_cfg, list | tuple):
        return [item for item in init_cfg if item.get("type") != "Pretrained"]
    return init_cfg
