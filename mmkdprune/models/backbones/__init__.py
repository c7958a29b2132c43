"""Backbones of the papers that MMPretrain does not have."""

from .cifar_mobilenet_v2 import CifarMobileNetV2
from .cifar_resnet import CifarResNet, LinearStemResNetCIFAR
from .cifar_shufflenet_v1 import CifarShuffleNetV1
from .cifar_shufflenet_v2 import CifarShuffleNetV2
from .cifar_vgg import CifarVGG
from .cifar_wide_resnet import CifarWideResNet
from .compact_backbone import CompactBackbone
from .staged_backbone import StagedBackbone

__all__ = [
    "CifarMobileNetV2",
    "CifarResNet",
    "CifarShuffleNetV1",
    "CifarShuffleNetV2",
    "CifarVGG",
    "CifarWideResNet",
    "CompactBackbone",
    "LinearStemResNetCIFAR",
    "StagedBackbone",
]
