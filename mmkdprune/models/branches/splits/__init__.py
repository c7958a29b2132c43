"""How the backbones of MMPretrain split into stages: one file a family."""

from .convnext import ConvNeXtStages
from .densenet import DenseNetStages
from .hrnet import HRNetStages
from .layered import EfficientNetStages, LayeredStages, MobileNetV2Stages, MobileNetV3Stages
from .repvgg import RepVGGStages
from .resnet import RegNetStages, ResNetStages
from .shufflenet import ShuffleNetV1Stages, ShuffleNetV2Stages
from .swin_transformer import SwinTransformerStages
from .vgg import VGGStages

__all__ = [
    "ConvNeXtStages",
    "DenseNetStages",
    "EfficientNetStages",
    "HRNetStages",
    "LayeredStages",
    "MobileNetV2Stages",
    "MobileNetV3Stages",
    "RegNetStages",
    "RepVGGStages",
    "ResNetStages",
    "ShuffleNetV1Stages",
    "ShuffleNetV2Stages",
    "SwinTransformerStages",
    "VGGStages",
]
