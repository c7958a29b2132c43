"""The stage protocol: how a backbone splits into a stem and stages.

Methods that need feature maps after every stage, or fresh copies of the later stages, ask this file and never a
backbone's config. So the deployable network keeps its keys and its ``out_indices``.

A backbone class supports the protocol in one of three ways, tried in this order:

1. It has a method ``stage_protocol()`` that returns a :class:`StageProtocol`.
2. It is registered here with :func:`register_stage_protocol`; those of MMPretrain that are have a file in ``splits``.
3. Its stages are found by tracing one small image (:class:`TracedStages`); branches are then convolutional, since
   nothing is known about how the stages could be rebuilt.
"""

from collections.abc import Callable
from typing import Any

import torch.nn as nn
from mmpretrain.models import backbones

from . import splits
from .stage_protocol import StageProtocol
from .traced_stages import TracedStages

StageProtocolFactory = Callable[[Any], StageProtocol]
_PROTOCOLS: dict[Callable, StageProtocolFactory] = {}


def register_stage_protocol(backbone_class: type[nn.Module], factory: StageProtocolFactory) -> None:
    """Teach the protocol a backbone class.

    Args:
        backbone_class (type): A backbone. Subclasses are covered as long as they keep its ``forward``: one that
            overrides it may do anything, and is traced instead.
        factory (Callable): Makes a :class:`StageProtocol` from a backbone instance.
    """
    _PROTOCOLS[backbone_class.forward] = factory


register_stage_protocol(backbones.ConvNeXt, splits.ConvNeXtStages)
register_stage_protocol(backbones.DenseNet, splits.DenseNetStages)
register_stage_protocol(backbones.EfficientNet, splits.EfficientNetStages)
register_stage_protocol(backbones.HRNet, splits.HRNetStages)
register_stage_protocol(backbones.MobileNetV2, splits.MobileNetV2Stages)
register_stage_protocol(backbones.MobileNetV3, splits.MobileNetV3Stages)
register_stage_protocol(backbones.RegNet, splits.RegNetStages)
register_stage_protocol(backbones.RepVGG, splits.RepVGGStages)
register_stage_protocol(backbones.ResNet, splits.ResNetStages)
register_stage_protocol(backbones.ResNet_CIFAR, splits.ResNetStages)
register_stage_protocol(backbones.ShuffleNetV1, splits.ShuffleNetV1Stages)
register_stage_protocol(backbones.ShuffleNetV2, splits.ShuffleNetV2Stages)
register_stage_protocol(backbones.SwinTransformer, splits.SwinTransformerStages)
register_stage_protocol(backbones.VGG, splits.VGGStages)


def find_stage_protocol(backbone: nn.Module) -> StageProtocol:
    """Find how a backbone splits into stages.

    Args:
        backbone (nn.Module): Any backbone that maps images to feature maps.

    Returns:
        StageProtocol: The protocol to run and copy its stages with.

    Raises:
        ValueError: If fewer than two stages can be found.
    """
    own: Any = getattr(backbone, "stage_protocol", None)
    factory = _PROTOCOLS.get(type(backbone).forward)
    if callable(own):
        protocol = own()
    else:
        protocol = factory(backbone) if factory is not None else TracedStages(backbone)
    if protocol.num_stages < 2:
        name, number = type(backbone).__name__, protocol.num_stages
        if isinstance(protocol, TracedStages):
            found = "has no stages: " + (
                "all of its feature maps have one resolution"
                if number
                else "it gives no feature maps (a plain transformer works on tokens of one resolution)"
            )
        else:
            found = f"has {number} stage(s)"
        raise ValueError(
            f"backbone {name} {found}, but branches after inner stages need at least two: use a backbone with feature "
            "maps of several resolutions (ResNet, ConvNeXt, SwinTransformer, MobileNetV2, ...), raise its num_stages, "
            "describe its stages with mmkdprune.models.branches.register_stage_protocol, or use a method without "
            "branches (mmkdprune.MCL, mmkdprune.KnowledgeDistillation)."
        )
    return protocol
