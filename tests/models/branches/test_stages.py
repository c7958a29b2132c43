import pytest
import torch
from mmpretrain.models.backbones import (
    EfficientNetV2,
    HRNet,
    MobileNetV2,
    PoolFormer,
    ResNet,
    ResNet_CIFAR,
    ResNetV1c,
    ShuffleNetV2,
    VisionTransformer,
)
from mmpretrain.registry import MODELS

from mmkdprune.models.backbones import CifarResNet
from mmkdprune.models.branches import (
    ResNetStages,
    TracedStages,
    find_stage_protocol,
    fresh_copy,
    register_stage_protocol,
)

RESNET_LINE = [
    {"type": "ResNet", "depth": 18},
    {"type": "ResNet", "depth": 50},
    {"type": "ResNet_CIFAR", "depth": 18},
    {"type": "ResNeXt", "depth": 50},
    {"type": "SEResNet", "depth": 50},
    {"type": "ResNetV1c", "depth": 18},
    {"type": "ResNetV1d", "depth": 50},
    {"type": "mmkdprune.CifarResNet", "depth": 20},
]


@pytest.mark.parametrize("config", RESNET_LINE, ids=lambda config: f"{config['type']}-{config['depth']}")
def test_resnet_line_runs_as_the_backbone_itself(config):
    backbone = MODELS.build({**config, "out_indices": (0, 2)})
    backbone.eval()
    images = torch.randn(2, 3, 64, 48)
    protocol = find_stage_protocol(backbone)
    assert isinstance(protocol, ResNetStages)
    taps, _, outputs = protocol.forward(backbone, images)
    expected = backbone(images)
    assert len(outputs) == len(expected) == 2
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(outputs, expected, strict=True))
    channels_and_sizes = [(tap.shape[1], round(64 / tap.shape[2])) for tap in taps]
    assert channels_and_sizes == protocol.feature_shapes(backbone)


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        (EfficientNetV2("b0"), [(32, 1), (48, 2), (112, 4), (1280, 8)]),
        (PoolFormer("s12", out_indices=(6,)), [(64, 1), (128, 2), (320, 4), (512, 8)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_unknown_backbones_are_traced(backbone, expected):
    keys = list(backbone.state_dict())
    protocol = find_stage_protocol(backbone)
    assert isinstance(protocol, TracedStages)
    assert protocol.feature_shapes(backbone) == expected
    images = torch.randn(2, 3, 64, 64)
    backbone.eval()
    taps, _, outputs = protocol.forward(backbone, images)
    assert [tap.shape[1] for tap in taps] == [channels for channels, _ in expected]
    assert torch.equal(outputs[-1], backbone(images)[-1])
    assert list(backbone.state_dict()) == keys
    assert not any(module._forward_hooks for module in backbone.modules())


def test_tracing_leaves_modes_and_statistics_alone():
    backbone = EfficientNetV2("b0")
    backbone.layers[2].eval()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    modes = [module.training for module in backbone.modules()]
    TracedStages(backbone)
    assert modes == [module.training for module in backbone.modules()]
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_a_subclass_with_its_own_forward_is_traced():
    class Custom(ResNet):
        def forward(self, x):
            return super().forward(2 * x)

    backbone = Custom(18)
    backbone.eval()
    protocol = find_stage_protocol(backbone)
    assert isinstance(protocol, TracedStages)
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(protocol.forward(backbone, images).outputs[-1], backbone(images)[-1])


def test_registered_and_own_protocols_come_first():
    class Custom(ResNet):
        def forward(self, x):
            return super().forward(x)

    register_stage_protocol(Custom, ResNetStages)
    assert isinstance(find_stage_protocol(Custom(18)), ResNetStages)

    class Own(MobileNetV2):
        def stage_protocol(self):
            return "mine"

    with pytest.raises(AttributeError, match="num_stages"):
        find_stage_protocol(Own())


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (
            ResNet(18, num_stages=1, strides=(1,), dilations=(1,), out_indices=(0,)),
            r"backbone ResNet has 1 stage\(s\), but .* at least two.*raise its num_stages",
        ),
        (
            VisionTransformer("deit-tiny"),
            r"VisionTransformer has no stages: .*tokens of one resolution.*without branches.*MCL",
        ),
    ],
    ids=["one stage", "one resolution"],
)
def test_fewer_than_two_stages_are_refused(backbone, message):
    with pytest.raises(ValueError, match=message):
        find_stage_protocol(backbone)


def test_the_last_traced_map_is_the_one_that_the_backbone_returns():
    """HRNet's stages give several maps at once, which no hook on a module sees."""
    backbone = HRNet("w18")
    backbone.eval()
    protocol = TracedStages(backbone)
    taps, _, outputs = protocol.forward(backbone, torch.randn(2, 3, 64, 64))
    assert taps[-1] is outputs[-1]
    assert protocol.feature_shapes(backbone)[-1] == (144, 8)
    assert len(taps) == 4


@pytest.mark.parametrize(
    "config",
    [{"type": "CSPDarkNet", "depth": 53, "out_indices": (4,)}, {"type": "VAN", "arch": "tiny"}],
    ids=lambda config: config["type"],
)
def test_more_backbones_are_traced(config):
    backbone = MODELS.build(config)
    backbone.eval()
    protocol = find_stage_protocol(backbone)
    taps, _, outputs = protocol.forward(backbone, torch.randn(2, 3, 64, 64))
    assert protocol.num_stages == 4
    assert taps[-1] is outputs[-1]
    assert [tap.shape[1] for tap in taps] == [channels for channels, _ in protocol.feature_shapes(backbone)]
    sizes = [tap.shape[2] for tap in taps]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("widen_factor", [0.5, 1.0])
def test_stages_of_shufflenet_v2_begin_with_the_stem(widen_factor):
    backbone = ShuffleNetV2(widen_factor, out_indices=(1, 3))
    backbone.eval()  # returns nothing
    protocol = find_stage_protocol(backbone)
    images = torch.randn(2, 3, 64, 64)
    taps, last_map, outputs = protocol.forward(backbone, images)
    assert [(tap.shape[1], 64 // tap.shape[2]) for tap in taps] == protocol.feature_shapes(backbone)
    assert last_map.shape[1] == protocol.out_channels(backbone) == 1024
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(outputs, backbone(images), strict=True))
    x = images
    for stage, tap in zip(protocol.stages(backbone), taps, strict=True):
        x = stage(x)
        assert torch.equal(x, tap)
    assert torch.equal(protocol.tail(backbone)(x), last_map)
    duplicate = fresh_copy(backbone, protocol.repeat_last_stage)
    assert protocol.stages(duplicate)[-1](taps[-1]).shape == taps[-1].shape
    assert len(protocol.stages(duplicate)[-1]) == 4


def test_backbones_may_return_a_single_tensor():
    class Bare(MobileNetV2):  # with a forward of its own, and so traced
        def forward(self, x):
            return super().forward(x)[-1]

    backbone = Bare()
    taps, _, outputs = find_stage_protocol(backbone).forward(backbone, torch.randn(2, 3, 64, 64))
    assert taps[-1] is outputs


def test_fresh_copy_starts_anew():
    backbone = ResNetV1c(depth=18, frozen_stages=2, norm_eval=True, init_cfg={"type": "Pretrained", "checkpoint": "x"})
    duplicate = fresh_copy(backbone)
    assert not torch.equal(duplicate.layer2[0].conv1.weight, backbone.layer2[0].conv1.weight)
    assert all(parameter.requires_grad for parameter in duplicate.parameters())
    assert not backbone.layer1[0].conv1.weight.requires_grad
    assert list(duplicate.state_dict()) == list(backbone.state_dict())


def test_fresh_copy_keeps_the_initialisation_of_its_class():
    copied = fresh_copy(ResNet_CIFAR(18, zero_init_residual=True))
    assert copied.layer4[1].norm2.weight.abs().max() == 0
    conv = fresh_copy(CifarResNet("32x4")).layer3[1].conv1.weight
    assert conv.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.02)
