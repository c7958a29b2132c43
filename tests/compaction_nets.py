"""Networks for the tests of compaction: each architecture with its real structure, narrow where that is slow."""

import copy

import compactable_backbones as TABLE
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmkdprune.pruning import make_pruner

_HR_STAGE = {"num_branches": 2, "block": "BASIC", "num_blocks": (1, 1), "num_channels": (8, 16), "num_modules": 1}
_HR = {
    "stage1": {
        "num_modules": 1,
        "num_branches": 1,
        "block": "BOTTLENECK",
        "num_blocks": (1,),
        "num_channels": (8,),
    },
    "stage2": _HR_STAGE,
    "stage3": {**_HR_STAGE, "num_branches": 3, "num_blocks": (1,) * 3, "num_channels": (8, 16, 32)},
    "stage4": {**_HR_STAGE, "num_branches": 4, "num_blocks": (1,) * 4, "num_channels": (8, 16, 32, 64)},
}
_NARROW = {"base_channels": 16, "stem_channels": 16}
_DENSE_NET = {"growth_rate": 8, "depths": [2, 2, 2], "init_channels": 16}
NETS = {
    "resnet18": {"type": "ResNet", "depth": 18, **_NARROW},
    "resnet34": {"type": "ResNet", "depth": 34, **_NARROW},
    "resnet50": {"type": "ResNet", "depth": 50, **_NARROW},
    "resnet101": {"type": "ResNet", "depth": 101, **_NARROW},
    "resnet_cifar18": {"type": "ResNet_CIFAR", "depth": 18, **_NARROW},
    "seresnet50": {"type": "SEResNet", "depth": 50, **_NARROW},
    "resnext50": {"type": "ResNeXt", "depth": 50, "groups": 8, "width_per_group": 4},
    "vgg11": {"type": "VGG", "depth": 11},
    "vgg11bn": {"type": "VGG", "depth": 11, "norm_cfg": {"type": "BN"}},
    "mobilenetv2": {"type": "MobileNetV2", "widen_factor": 0.5},
    "mobilenetv3": {"type": "MobileNetV3", "arch": "small_050"},
    "efficientnet": {"type": "EfficientNet", "arch": "b0"},
    "regnet": {"type": "RegNet", "arch": "regnetx_400mf"},
    "repvgg": {"type": "RepVGG", "arch": "A0"},
    "hrnet": {"type": "HRNet", "extra": _HR},
    "densenet": {"type": "DenseNet", "arch": _DENSE_NET},
    "convnext": {
        "type": "ConvNeXt",
        "arch": {"depths": [1, 1, 2, 1], "channels": [16, 32, 48, 64]},
        "linear_pw_conv": False,
    },
    "cifar_resnet": {"type": "mmkdprune.CifarResNet", "depth": 20},
    "cifar_resnet_pad": {"type": "mmkdprune.CifarResNet", "depth": 20, "shortcut": "pad"},
    "cifar_bottleneck": {"type": "mmkdprune.CifarResNet", "depth": 56, "block": "bottleneck"},
    "cifar_wide_resnet": {"type": "mmkdprune.CifarWideResNet", "depth": 16, "widen_factor": 1},
    "cifar_vgg": {"type": "mmkdprune.CifarVGG", "depth": 8},
    "cifar_mobilenetv2": {"type": "mmkdprune.CifarMobileNetV2"},
    "cifar_shufflenetv1": {"type": "mmkdprune.CifarShuffleNetV1"},
    "cifar_shufflenetv2": {"type": "mmkdprune.CifarShuffleNetV2", "widen_factor": 0.5},
    "linear_stem": {"type": "mmkdprune.LinearStemResNetCIFAR", "depth": 18, **_NARROW},
}
SIZE = 32


def build(config: dict) -> nn.Module:
    """Build a backbone of MMPretrain or this package."""
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return MODELS.build(copy.deepcopy(config))


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Statistics, scales and shifts such as training leaves behind: nothing is 0 or 1 by chance."""
    TABLE.random_statistics(network, seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.uniform_(module.bias, -0.1, 0.1)
    return network


def classifier(name: str, seed: int = 0, **changes) -> nn.Module:
    """A network of the list with random weights and statistics, in evaluation mode."""
    torch.manual_seed(seed)
    return randomise(TABLE.Classifier(build({**NETS[name], **changes}), SIZE).eval(), seed)


def prune(model: nn.Module, coupling: str = "group", rate: float = 0.4, **options):
    """Prune at once, without training; returns the pruner."""
    pruner = make_pruner(model, "hfp", rate, coupling=coupling, **options)
    pruner.finalize()
    return pruner


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
