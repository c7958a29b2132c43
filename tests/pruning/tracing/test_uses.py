"""Which convolutions make features for others, on layers made for a purpose and on whole models."""

import importlib
import warnings

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d, roi_align

from mmkdprune.pruning import make_pruner
from mmkdprune.pruning.tracing.layers import trace_channels

pytestmark = pytest.mark.usefixtures("one_thread")


class Parts(nn.Module):
    """A stem, a layer whose output is used in some way, and a head that reads what comes out."""

    def __init__(self, use, wide=8):
        super().__init__()
        self.use = use
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.layer = nn.Conv2d(8, wide, 1)
        self.filters = nn.Parameter(torch.randn(8, 8, 3, 3))
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.use(self, x, self.layer(x)))


def modulated(self, x, out):
    first, second, mask = out.chunk(3, 1)
    return deform_conv2d(x, torch.cat((first, second), 1), self.filters, padding=1, mask=mask.sigmoid())


def attended(self, x, out):
    weights = out.mean((2, 3), keepdim=True).view(len(x), 1, 2, 8).transpose(1, 2).softmax(1).reshape(len(x), 16, 1, 1)
    return (torch.cat((x, x), 1) * weights).view(len(x), 2, 8, *x.shape[2:]).sum(1)


def coordinates(self, x, out):
    """As coordinate attention: two maps of gates along height and width, from one layer, by way of a permutation."""
    height, width = out.mean(3, keepdim=True), out.mean(2, keepdim=True).permute(0, 1, 3, 2).permute(0, 1, 3, 2)
    return x * height.sigmoid() * width.sigmoid()


def in_place(self, x, out):
    buffer = x.new_zeros(len(x), 8, *x.shape[2:])
    buffer[:, :4] = out[:, :4]
    buffer[:, 4:] = out[:, 4:]
    return buffer


def regions(self, x, out):
    boxes = out.mean((2, 3))[:, :4]
    return roi_align(x, torch.cat((boxes.new_zeros(len(x), 1), boxes), 1), 4)


@pytest.mark.parametrize(
    ("use", "wide", "reason"),
    [
        (modulated, 27, "its output is no features but offsets of a deformable convolution"),
        (attended, 16, "its output is no features but logits of a softmax"),
        (
            lambda self, x, out: x * out.mean((2, 3), keepdim=True).sigmoid(),
            8,
            "its output is a gate on other channels",
        ),
        (coordinates, 8, "its output is a gate on other channels"),
        (lambda self, x, out: F.glu(out, 1), 16, "its output is a gate on other channels"),
        (lambda self, x, out: out[:, :8] * out[:, 8:].sigmoid(), 16, "its output is a gate on other channels"),
        (
            lambda self, x, out: F.grid_sample(x, out.permute(0, 2, 3, 1), align_corners=False),
            2,
            "its output is no features but places that are sampled",
        ),
        (regions, 8, "its output is no features but boxes of regions"),
        (
            lambda self, x, out: F.conv2d(x, out.mean((0, 2, 3)).view(8, 8, 1, 1)),
            64,
            "its output is no features but weights of another convolution",
        ),
        (
            lambda self, x, out: x[:, :, out.mean((0, 1)).flatten().argmax().view(1) // x.shape[3]],
            8,
            "no other layer reads its output, so that it may be a result of the model (prune_outputs=False)",
        ),
    ],
)
def test_layers_that_make_no_features_are_left_alone(use, wide, reason):
    pruner = make_pruner(Parts(use, wide), "hfp", 0.4)
    assert list(pruner.masks) == ["stem.0"]
    assert pruner.skipped == {"layer": reason, "head": "an output of the model (prune_outputs=False)"}


@pytest.mark.parametrize(
    "use",
    [
        lambda self, x, out: x + out,
        lambda self, x, out: out * out.sigmoid(),  # SiLU in two operators
        lambda self, x, out: out.sigmoid(),
        lambda self, x, out: F.gelu(out).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        lambda self, x, out: torch.cat(out.chunk(2, 1)[::-1], 1),
        lambda self, x, out: deform_conv2d(out, x.new_zeros(len(x), 18, *x.shape[2:]), self.filters, padding=1),
        lambda self, x, out: F.layer_norm(out, out.shape[1:]),
        in_place,
    ],
)
def test_features_are_pruned(use):
    pruner = make_pruner(Parts(use), "hfp", 0.4)
    assert list(pruner.masks) == ["stem.0", "layer"]


def test_queries_and_keys_are_features_whatever_is_done_with_their_products():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.key, self.value, self.out = (nn.Conv2d(3, 8, 1) for _ in range(4))
            self.out = nn.Conv2d(8, 3, 1)

        def forward(self, x):
            query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
            mixed = (query.transpose(1, 2) @ key).softmax(2) @ value.transpose(1, 2)
            return self.out(mixed.transpose(1, 2).unflatten(2, x.shape[2:]))

    assert list(make_pruner(Attention(), "hfp", 0.4).masks) == ["query", "key", "value"]


class Outputs(nn.Module):
    """Classes, boxes made positive, a mask at full size, and features beside them."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.classes, self.boxes, self.masks = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 2, 1)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        x = self.stem(x)
        classes = self.classes(x).permute(0, 2, 3, 1).flatten(0, 2).sigmoid()
        masks = self.masks(x)
        return x, {
            "classes": classes,
            "boxes": [(self.scale * self.boxes(x)).relu()],
            "masks": F.interpolate(masks, (32, 32)),
        }


@pytest.mark.parametrize("coupling", ["independent", "group"])
def test_outputs_are_pruned_if_that_is_asked_for(coupling):
    pruner = make_pruner(Outputs(), "hfp", 0.5, coupling=coupling)
    assert (list(pruner.masks), pruner.outputs) == (["stem.0"], [])
    assert set(pruner.skipped) == {"classes", "boxes", "masks"}
    # as independent layers: in groups they are left alone where their channels cannot be followed to the end
    pruner = make_pruner(Outputs(), "hfp", 0.5, prune_outputs=True)
    assert pruner.outputs == ["boxes", "classes", "masks"]
    assert set(pruner.masks) == {"stem.0", "classes", "boxes", "masks"}


def test_outputs_of_a_part_are_inputs_of_the_rest():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
            self.head = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))

        def forward(self, x):
            return self.head(self.backbone(x))

    assert list(make_pruner(Model(), "hfp", 0.4).masks) == ["0", "2"]
    assert list(make_pruner(Model(), "hfp", 0.4, scope="head").masks) == ["0"]
    assert list(make_pruner(Model(), "hfp", 0.4, scope="").masks) == ["backbone.0", "backbone.2", "head.0"]


def test_a_pass_that_fails_at_a_classifier_has_been_followed_to_it():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 9 * 9, 4))
    assert list(make_pruner(network, "hfp", 0.4).masks) == ["0"]


BACKBONES = [
    (
        "mmdet",
        {
            "type": "ResNet",
            "depth": 50,
            "dcn": {"type": "DCNv2", "deform_groups": 1, "fallback_on_stride": False},
            "stage_with_dcn": (False, False, False, True),
        },
        r"conv_offset",
        3,
    ),
    ("mmpretrain", {"type": "ResNeSt", "depth": 50}, r"conv2\.fc2", 16),
    ("mmpretrain", {"type": "SEResNet", "depth": 50}, r"se_layer\.conv2", 16),
]


@pytest.mark.parametrize(("scope", "settings", "pattern", "number"), BACKBONES, ids=lambda row: str(row)[:24])
def test_offsets_logits_and_gates_of_backbones(scope, settings, pattern, number):
    pytest.importorskip(scope)
    importlib.import_module(f"{scope}.models")
    init_default_scope(scope)
    pruner = make_pruner(MODELS.build(settings), "hfp", 0.5)
    left_alone = [name for name in pruner.skipped if pattern.replace("\\", "") in name]
    assert len(left_alone) == number
    assert not any(pattern.replace("\\", "") in name for name in pruner.masks)
    assert len(pruner.masks) > number


# Whole models of the transfer configs and other head families, and the layers that make their results.
MODELS_OF_CONFIGS = {
    "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py": "bbox_head.retina_cls bbox_head.retina_reg",
    "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py": "rpn_head.rpn_cls rpn_head.rpn_reg",
    "mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py": "rpn_head.rpn_cls rpn_head.rpn_reg",
    "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py": (
        "rpn_head.rpn_cls rpn_head.rpn_reg roi_head.mask_head.conv_logits"
    ),
    "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py": (
        "bbox_head.conv_cls bbox_head.conv_reg bbox_head.conv_centerness"
    ),
    "mmdet::yolox/yolox_tiny_8xb8-300e_coco.py": " ".join(
        f"bbox_head.multi_level_conv_{what}.{level}" for level in range(3) for what in ("cls", "reg", "obj")
    ),
    **dict.fromkeys(
        (
            "mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py",
            "mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py",
            "mmseg::deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024.py",
            "mmseg::upernet/upernet_r18_4xb2-80k_cityscapes-512x1024.py",
        ),
        "decode_head.conv_seg",
    ),
}


def stock_model(path):
    """A model of a stock config, that looks at few regions if it does."""
    from mmengine.hub import get_config

    package = path.split("::")[0]
    pytest.importorskip(package)
    importlib.import_module(f"{package}.models")
    init_default_scope(package)
    settings = get_config(path).model
    settings.pop("pretrained", None)
    settings.backbone.update(init_cfg=None)
    if "norm_cfg" in settings.backbone:
        settings.backbone.norm_cfg.type = "BN"
    for part in ("rpn", "rcnn"):
        if part in settings.get("test_cfg", {}):
            settings.test_cfg[part].update(max_per_img=5)
    text = Config({"model": settings}).pretty_text.replace("SyncBN", "BN")
    return MODELS.build(ConfigDict(Config.fromstring(text, ".py").model))


@pytest.mark.parametrize("path", MODELS_OF_CONFIGS, ids=lambda path: path.split("/")[1].split("_")[0])
def test_results_of_detectors_and_segmentors(path):
    model = stock_model(path)
    expected = set(MODELS_OF_CONFIGS[path].split())
    for coupling in ("independent", "group"):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*could not be run")
            pruner = make_pruner(model, "hfp", 0.4, scope="", coupling=coupling)
        assert not expected & pruner.masks.keys()
        reasons = ("prune_outputs=False", "places that are sampled", "boxes of regions")
        left_alone = {name for name, reason in pruner.skipped.items() if any(part in reason for part in reasons)}
        assert left_alone == expected
        if coupling == "independent":
            assert any(name.startswith(("neck.", "decode_head.")) for name in pruner.masks)
        assert any(name.startswith("backbone.") for name in pruner.masks)


def test_a_head_alone_is_followed_in_a_pass_of_its_model():
    model = stock_model("mmdet::retinanet/retinanet_r18_fpn_1x_coco.py")
    pruner = make_pruner(model, "hfp", 0.4, scope="bbox_head", coupling="group")
    assert [name for name in pruner.masks if "retina" in name] == []
    assert len(pruner.masks) == 8
    assert set(pruner.skipped) == {"retina_cls", "retina_reg"}


def test_reached_outputs_do_not_depend_on_names_or_shapes():
    network = Outputs()
    first = trace_channels(network, torch.zeros(1, 3, 32, 32)).outputs
    assert first == trace_channels(network, torch.zeros(2, 3, 16, 24)).outputs == {"classes", "boxes", "masks"}
