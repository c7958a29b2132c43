"""Networks for the tests of stages and branches: the structure of each architecture, narrow and for small images."""

import copy

from mmengine.registry import MODELS, DefaultScope
from mmpretrain.models.backbones import VGG
from torch import nn

from mmkdprune.registry import MODELS as OWN_MODELS


@OWN_MODELS.register_module(force=True)
class ScoringVGG(VGG):
    """A VGG with a classifier inside, for images of 32 px and not of 224."""

    def __init__(self, depth: int, num_classes: int) -> None:
        super().__init__(depth, out_indices=(5,))
        self.num_classes = num_classes
        layers = [nn.Linear(512, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, num_classes)]
        self.classifier = nn.Sequential(*layers)


def _hr(modules: int, *channels: int) -> dict:
    number = len(channels)
    return {
        "num_modules": modules,
        "num_branches": number,
        "block": "BOTTLENECK" if number == 1 else "BASIC",
        "num_blocks": (1,) * number,
        "num_channels": channels,
    }


_HR = {
    "stage1": _hr(1, 8),
    "stage2": _hr(1, 8, 16),
    "stage3": _hr(1, 8, 16, 32),
    "stage4": _hr(2, 8, 16, 32, 64),
}
_CONVNEXT = {"type": "ConvNeXt", "arch": {"depths": [1, 1, 2, 1], "channels": [8, 16, 24, 32]}}
_SWIN = {
    "type": "SwinTransformer",
    "arch": {"embed_dims": 8, "depths": [1, 1, 2, 2], "num_heads": [1, 2, 4, 8]},
    "window_size": 2,
    "img_size": 64,
    "drop_path_rate": 0.0,
}
_BN = {"type": "BN"}
_NARROW = {"base_channels": 8, "stem_channels": 8}
# name: (backbone, image size, channels of the last map)
NETS: dict[str, tuple[dict, int, int]] = {
    "vgg": ({"type": "VGG", "depth": 11, "norm_cfg": _BN}, 32, 512),
    "vgg, no norm": ({"type": "VGG", "depth": 11}, 32, 512),
    "vgg, classifier": ({"type": "mmkdprune.ScoringVGG", "depth": 11, "num_classes": 10}, 32, 512),
    "mobilenet v2": ({"type": "MobileNetV2", "widen_factor": 0.25}, 32, 1280),
    "mobilenet v3 small": ({"type": "MobileNetV3", "arch": "small_050"}, 32, 288),
    "mobilenet v3 large": ({"type": "MobileNetV3", "arch": "large"}, 32, 960),
    "shufflenet v1": ({"type": "ShuffleNetV1", "widen_factor": 0.5}, 32, 480),
    "shufflenet v2": ({"type": "ShuffleNetV2", "widen_factor": 0.5}, 32, 1024),
    "regnet": (
        {"type": "RegNet", "arch": {"w0": 16, "wa": 16, "wm": 2.0, "group_w": 8, "depth": 8, "bot_mul": 1.0}},
        32,
        128,
    ),
    "efficientnet": ({"type": "EfficientNet", "arch": "b0"}, 32, 1280),
    "efficientnet, edge": ({"type": "EfficientNet", "arch": "es"}, 32, 1280),
    "densenet": (
        {"type": "DenseNet", "arch": {"growth_rate": 8, "depths": [2, 2, 2, 2], "init_channels": 16}},
        64,
        32,
    ),
    "repvgg": (
        {
            "type": "RepVGG",
            "arch": {
                "num_blocks": [1, 2, 2, 2],
                "width_factor": [0.25] * 4,
                "group_layer_map": {2: 2, 4: 2, 6: 2},
                "se_cfg": {"ratio": 16, "divisor": 1},
            },
            "add_ppf": True,
        },
        32,
        128,
    ),
    "hrnet": ({"type": "HRNet", "extra": _HR}, 32, 64),
    "hrnet, one output": ({"type": "HRNet", "extra": _HR, "multiscale_output": False}, 32, 8),
    "convnext": (_CONVNEXT, 64, 32),
    "convnext, maps": ({**_CONVNEXT, "gap_before_final_norm": False}, 64, 32),
    "convnext v2": ({**_CONVNEXT, "use_grn": True, "layer_scale_init_value": 0.0}, 64, 32),
    "swin": (_SWIN, 64, 64),
    "swin, positions": ({**_SWIN, "use_abs_pos_embed": True}, 64, 64),
    "resnet": ({"type": "ResNet", "depth": 18, **_NARROW}, 32, 64),
    "resnext": ({"type": "ResNeXt", "depth": 50, "groups": 4, "width_per_group": 2, **_NARROW}, 32, 256),
    "resnest": ({"type": "ResNeSt", "depth": 50, **_NARROW}, 32, 256),
    "res2net": (
        {"type": "Res2Net", "depth": 50, "scales": 4, "base_width": 8, "deep_stem": True, "avg_down": True, **_NARROW},
        32,
        256,
    ),
}
FUSED_CHANNELS = 64


def build(config: dict) -> nn.Module:
    """Build a backbone or another part, of MMPretrain's scope where it names none."""
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return MODELS.build(copy.deepcopy(config))


def classifier_config(name: str, num_classes: int = 10) -> dict:
    """Backbone, neck and head of a classifier with one of the networks, as MMPretrain's configs combine them."""
    backbone, _, channels = NETS[name]
    head = {"type": "LinearClsHead", "num_classes": num_classes, "in_channels": channels}
    config = {"backbone": backbone, "neck": {"type": "GlobalAveragePooling"}, "head": head}
    if name == "vgg, classifier":
        config |= {"neck": None, "head": {"type": "ClsHead"}}
    if name == "convnext" or name == "convnext v2":
        config |= {"neck": None, "init_cfg": {"type": "TruncNormal", "layer": ["Conv2d", "Linear"], "std": 0.02}}
    if name == "swin":
        config |= {"init_cfg": [{"type": "TruncNormal", "layer": "Linear", "std": 0.02, "bias": 0.0}]}
    if name.startswith("mobilenet v3"):
        head |= {"type": "StackedLinearClsHead", "mid_channels": [24], "act_cfg": {"type": "HSwish"}}
    if name == "hrnet":
        fuse = {"type": "HRFuseScales", "in_channels": (8, 16, 32, 64), "out_channels": FUSED_CHANNELS}
        config |= {"neck": [fuse, {"type": "GlobalAveragePooling"}]}
        head |= {"in_channels": FUSED_CHANNELS}
    return copy.deepcopy(config)
