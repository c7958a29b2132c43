import copy
import math

import pytest
import torch
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from testing_helpers import assert_matches_golden, count_parameters, det, golden, set_shape_only_weights
from torch import nn

from mmkdprune.models.backbones import (
    CifarMobileNetV2,
    CifarShuffleNetV1,
    CifarShuffleNetV2,
    CifarVGG,
    CifarWideResNet,
    StagedBackbone,
)
from mmkdprune.models.branches import build_branches, find_stage_protocol, fresh_copy

# golden entry: class, arguments, parameters of its joint classifiers for 100 classes
GOLDEN = {
    "hsakd_wrn_16_2_aux": (CifarWideResNet, {"depth": 16, "widen_factor": 2}, 1_928_304),
    "hsakd_wrn_40_1_aux": (CifarWideResNet, {"depth": 40, "widen_factor": 1}, 1_484_432),
    "hsakd_wrn_40_2_aux": (CifarWideResNet, {"depth": 40, "widen_factor": 2}, 5_769_328),
    "hsakd_vgg13_bn_aux": (CifarVGG, {}, 37_049_664),
    "hsakd_mobilenetV2_aux": (CifarMobileNetV2, {}, 4_671_496),
    "hsakd_ShuffleV1_aux": (CifarShuffleNetV1, {}, 3_118_740),
    "hsakd_ShuffleV2_aux": (CifarShuffleNetV2, {}, 4_519_988),
}
HE_FAMILIES = [
    (CifarWideResNet, {"depth": 10, "widen_factor": 2}),
    (CifarVGG, {"depth": 8}),
    (CifarMobileNetV2, {}),
]
PYTORCH_FAMILIES = [(CifarShuffleNetV1, {}), (CifarShuffleNetV2, {"widen_factor": 0.5})]
every_family = pytest.mark.parametrize(
    ("backbone_class", "arguments"),
    HE_FAMILIES + PYTORCH_FAMILIES,
    ids=[backbone_class.__name__ for backbone_class, _ in HE_FAMILIES + PYTORCH_FAMILIES],
)


def small_backbone(**arguments) -> CifarWideResNet:
    return CifarWideResNet(10, 1, **arguments)


def joint_classifier(backbone: StagedBackbone, stage: int, num_classes: int) -> nn.Module:
    """The classifier that continues after a stage (counted from 1), made of nothing but what the protocol offers."""
    protocol = backbone.stage_protocol()
    duplicate = copy.deepcopy(backbone)
    if stage == protocol.num_stages:
        protocol.repeat_last_stage(duplicate)
        stage -= 1
    later = [*protocol.stages(duplicate)[stage:], protocol.tail(duplicate)]
    return nn.Sequential(
        *later, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(protocol.out_channels(duplicate), num_classes)
    )


@pytest.mark.parametrize("entry", GOLDEN)
def test_golden_backbone_and_joint_classifiers(entry):
    expected = golden("kd_nets")[entry]
    backbone_class, arguments, params_of_100_classes = GOLDEN[entry]
    backbone = backbone_class(**arguments).double().train()
    set_shape_only_weights(backbone)
    classifier = nn.Linear(backbone.feat_dim, 10).double()
    set_shape_only_weights(classifier)
    taps, last_map, _ = backbone.forward_stages(det((4, 3, 32, 32), 0.0137, 0.2))
    assert_matches_golden(classifier(last_map.mean((2, 3))), expected["logits"])
    assert count_parameters(backbone, classifier) == expected["params_backbone"]

    assert len(taps) == len(expected["q"])
    params = 0
    for stage, (tap, expected_logits) in enumerate(zip(taps, expected["q"], strict=True), start=1):
        branch = joint_classifier(backbone, stage, 40).double()
        set_shape_only_weights(branch)
        assert_matches_golden(branch(tap), expected_logits)
        params += count_parameters(branch)
    assert params == expected["params_aux"]
    assert params + len(taps) * 360 * (backbone.feat_dim + 1) == params_of_100_classes


@every_family
def test_protocol_describes_the_forward_pass(backbone_class, arguments):
    backbone = backbone_class(out_indices=(1, 0, 2), **arguments).eval()
    protocol = find_stage_protocol(copy.deepcopy(backbone))
    inputs = torch.randn(2, 3, 32, 32)
    taps, last_map, outputs = protocol.forward(backbone, inputs)
    assert all(map(torch.equal, outputs, backbone(inputs)))
    third = last_map if protocol.num_stages == 3 else taps[2]
    assert all(map(torch.equal, outputs, (taps[1], taps[0], third)))
    assert [(tap.shape[1], 32 // tap.shape[2]) for tap in taps] == protocol.feature_shapes(backbone)
    assert last_map.shape[1] == protocol.out_channels(backbone) == backbone.feat_dim
    assert protocol.can_copy

    x = backbone.stem(inputs)
    for stage, tap in zip(protocol.stages(backbone), taps, strict=True):
        x = stage(x)
        assert torch.equal(x, tap)
    assert torch.equal(protocol.tail(backbone)(x), last_map)


@every_family
def test_taps_are_not_overwritten_by_what_follows(backbone_class, arguments):
    backbone = backbone_class(**arguments).eval()
    inputs = torch.randn(2, 3, 16, 16)
    first_tap = backbone.stage1(backbone.stem(inputs))
    assert torch.equal(backbone.forward_stages(inputs).taps[0], first_tap)


@every_family
def test_repeated_last_stage_keeps_the_shape(backbone_class, arguments):
    backbone = backbone_class(**arguments)
    protocol = backbone.stage_protocol()
    taps = protocol.forward(backbone, torch.randn(2, 3, 32, 32)).taps
    before = protocol.stages(backbone)
    protocol.repeat_last_stage(backbone)
    after = protocol.stages(backbone)
    assert after[:-1] == before[:-1]
    assert after[-1] is not before[-1]
    assert after[-1](taps[-1]).shape == taps[-1].shape


@every_family
def test_branches_and_deep_copies_are_independent(backbone_class, arguments):
    backbone = backbone_class(**arguments).eval()
    inputs = torch.randn(2, 3, 16, 16)
    duplicate = copy.deepcopy(backbone)
    assert torch.equal(duplicate(inputs)[0], backbone(inputs)[0])
    shared = {id(parameter) for parameter in backbone.parameters()}
    branches = build_branches(backbone, backbone.stage_protocol(), 10, branch_type="stage_copy", tap_last=True)
    for module in (duplicate, branches):
        assert not shared & {id(parameter) for parameter in module.parameters()}
    taps = backbone.forward_stages(inputs).taps
    assert [tuple(branch(tap)[0].shape) for branch, tap in zip(branches, taps, strict=True)] == [(2, 10)] * len(taps)


@every_family
@pytest.mark.parametrize("size", [16, 64])
def test_other_image_sizes_and_channels(backbone_class, arguments, size):
    backbone = backbone_class(in_channels=1, **arguments)
    _, stride = backbone.stage_protocol().feature_shapes(backbone)[-1]
    assert backbone(torch.randn(2, 1, size, size))[-1].shape == (2, backbone.feat_dim, size // stride, size // stride)


@every_family
def test_channels_last_changes_nothing(backbone_class, arguments):
    backbone = backbone_class(**arguments).double().eval()
    inputs = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    expected = backbone(inputs)[0]
    backbone.to(memory_format=torch.channels_last)
    torch.testing.assert_close(backbone(inputs.contiguous(memory_format=torch.channels_last))[0], expected)


@every_family
def test_compiles_to_a_single_graph(backbone_class, arguments):
    backbone = backbone_class(**arguments).eval()
    inputs = torch.randn(2, 3, 16, 16)
    compiled = torch.compile(backbone, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(inputs)[0], backbone(inputs)[0])


@every_family
def test_trains_in_a_classifier_of_another_scope(backbone_class, arguments):
    backbone = {"type": f"mmkdprune.{backbone_class.__name__}", **arguments}
    head = {"type": "LinearClsHead", "num_classes": 10, "in_channels": backbone_class(**arguments).feat_dim}
    neck = {"type": "GlobalAveragePooling"}
    model = MODELS.build({"type": "ImageClassifier", "backbone": backbone, "neck": neck, "head": head})
    assert isinstance(model.backbone, backbone_class)
    logits = model.head(model.extract_feat(torch.randn(2, 3, 32, 32)))
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_keys_name_the_parts():
    assert {key.split(".")[0] for key in small_backbone().state_dict()} == {
        "stem",
        "stage1",
        "stage2",
        "stage3",
        "tail",
    }
    assert {key.split(".")[0] for key in CifarShuffleNetV1().state_dict()} == {"stem", "stage1", "stage2", "stage3"}


def test_the_last_stage_is_returned_by_default():
    assert small_backbone().out_indices == (2,)
    assert len(small_backbone()(torch.randn(2, 3, 16, 16))) == 1


@pytest.mark.parametrize("frozen_stages", [-1, 0, 1, 2, 3])
def test_frozen_stages(frozen_stages):
    backbone = small_backbone(frozen_stages=frozen_stages)
    parts = [backbone.stem, backbone.stage1, backbone.stage2, nn.ModuleList([backbone.stage3, backbone.tail])]
    for training in (True, False, True):
        assert backbone.train(training) is backbone
        for index, part in enumerate(parts):
            trains = index > frozen_stages
            assert all(parameter.requires_grad is trains for parameter in part.parameters())
            assert all(
                layer.training is (trains and training) for layer in part.modules() if not list(layer.children())
            )


def test_norm_eval_keeps_running_statistics():
    backbone = small_backbone(norm_eval=True).train()
    assert backbone.stage1[0].training
    before = backbone.stage1[0].norm1.running_mean.clone()
    backbone(torch.randn(2, 3, 16, 16))
    assert torch.equal(backbone.stage1[0].norm1.running_mean, before)


@every_family
def test_norm_cfg_reaches_all_norms(backbone_class, arguments):
    backbone = backbone_class(norm_cfg={"type": "GN", "num_groups": 1}, **arguments)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    assert sum(isinstance(module, nn.GroupNorm) for module in backbone.modules()) > 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"out_indices": (3,)}, r"CifarWideResNet: out_indices must be a list of stages from 0 to 2, got \(3,\)"),
        ({"out_indices": (-1,)}, "out_indices must be .* got"),
        ({"out_indices": ()}, "out_indices must be .* got"),
        ({"out_indices": 2}, "out_indices must be .* got 2"),
        ({"frozen_stages": 4}, "CifarWideResNet: frozen_stages must be .* at most 3, got 4"),
        ({"frozen_stages": -2}, "frozen_stages must be .* got -2"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        small_backbone(**arguments)


def initialised_weights(backbone: StagedBackbone) -> list[tuple[nn.Conv2d, float]]:
    """Initialise, check all norms and biases, and return the convolutions with enough weights for their statistics."""
    backbone.init_weights()
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
        if getattr(module, "bias", None) is not None:
            assert not module.bias.any()
    convolutions = [module for module in backbone.modules() if isinstance(module, nn.Conv2d)]
    large = [module for module in convolutions if module.weight.numel() >= 2000]
    assert len(large) >= 4
    return large


@pytest.mark.parametrize(("backbone_class", "arguments"), HE_FAMILIES)
def test_normal_initialisation(backbone_class, arguments):
    for convolution in initialised_weights(backbone_class(**arguments)):
        out_channels, _, *kernel = convolution.weight.shape
        std = math.sqrt(2 / (math.prod(kernel) * out_channels))
        assert convolution.weight.std().item() == pytest.approx(std, rel=0.1)
        assert convolution.weight.abs().max() > 2.5 * std  # no uniform distribution reaches that far


@pytest.mark.parametrize(("backbone_class", "arguments"), PYTORCH_FAMILIES)
def test_pytorch_initialisation(backbone_class, arguments):
    for convolution in initialised_weights(backbone_class(**arguments)):
        bound = 1 / math.sqrt(convolution.weight[0].numel())
        assert convolution.weight.abs().max().item() <= bound * (1 + 1e-6)
        assert convolution.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


@every_family
def test_initialisation_can_be_repeated(backbone_class, arguments):
    backbone = backbone_class(**arguments)
    backbone.init_weights()
    duplicate = copy.deepcopy(backbone)
    for module in duplicate.modules():
        if isinstance(module, BaseModule):
            module.is_init = False
    duplicate.init_weights()
    for parameter, other in zip(backbone.parameters(), duplicate.parameters(), strict=True):
        assert parameter.ndim == 1 or not torch.equal(parameter, other)


@every_family
def test_a_given_initialisation_replaces_the_authors(backbone_class, arguments):
    backbone = backbone_class(init_cfg={"type": "Constant", "val": 0.5, "layer": "Conv2d"}, **arguments)
    backbone.init_weights()
    assert all((parameter == 0.5).all() for parameter in backbone.parameters() if parameter.ndim == 4)


def test_branches_of_a_pretrained_backbone_start_from_the_authors_initialisation(tmp_path):
    torch.save(small_backbone().state_dict(), tmp_path / "pretrained.pth")
    pretrained = {"type": "Pretrained", "checkpoint": str(tmp_path / "pretrained.pth")}
    backbone = small_backbone(init_cfg=pretrained)
    backbone.init_weights()
    assert torch.equal(backbone.stem.weight, torch.load(tmp_path / "pretrained.pth")["stem.weight"])
    weight = fresh_copy(backbone).stage3[0].conv2.weight
    assert not torch.equal(weight, backbone.stage3[0].conv2.weight)
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.05)
