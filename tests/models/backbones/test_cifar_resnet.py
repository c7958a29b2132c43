import pytest
import torch
from mmpretrain.models.backbones import ResNet_CIFAR
from mmpretrain.registry import MODELS
from testing_helpers import assert_matches_golden, count_parameters, det, golden, set_shape_only_weights

from mmkdprune.models.backbones import CifarResNet, LinearStemResNetCIFAR

# with a linear classifier of 100 classes
PARAMETERS = {20: 278_324, 32: 472_756, 56: 861_620, 110: 1_170_868, "8x4": 1_233_540, "32x4": 7_433_860}


@pytest.mark.parametrize(("depth", "expected"), PARAMETERS.items())
def test_parameter_counts(depth, expected):
    backbone = CifarResNet(depth)
    assert count_parameters(backbone) + 100 * backbone.feat_dim + 100 == expected


@pytest.mark.parametrize(
    ("depth", "entry"),
    [
        (20, "hsakd_resnet20_aux"),
        (56, "hsakd_resnet56_aux"),
        ("8x4", "hsakd_resnet8x4_aux"),
        ("32x4", "hsakd_resnet32x4_aux"),
        (32, "mcl_resnet32_x2"),
        (110, "mcl_resnet110_x2"),
    ],
)
def test_golden_outputs(depth, entry):
    expected = golden("kd_nets")[entry]
    backbone = CifarResNet(depth).double()
    backbone.train()
    classifier = torch.nn.Linear(backbone.feat_dim, 10).double()
    set_shape_only_weights(backbone)
    set_shape_only_weights(classifier)
    pooled = backbone(det((4, 3, 32, 32), 0.0137, 0.2))[-1].mean((2, 3))
    assert_matches_golden(classifier(pooled), expected.get("logits") or expected["logits0"])
    if "emb0" in expected:
        assert_matches_golden(pooled, expected["emb0"])


def test_44_layers_and_feature_maps():
    backbone = CifarResNet(44, out_indices=(0, 1, 2))
    assert len(backbone.layer1) == 7
    shapes = [tuple(feat.shape[1:]) for feat in backbone(torch.zeros(1, 3, 32, 32))]
    assert shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_block_can_be_chosen():
    assert len(CifarResNet(110, block="basic").layer1) == 18
    assert CifarResNet(20, block="bottleneck").feat_dim == 256


def test_residual_branches_do_not_start_at_zero_and_the_stock_class_is_untouched():
    backbone = CifarResNet(20)
    backbone.init_weights()
    assert backbone.layer1[0].norm2.weight.abs().min() > 0
    assert set(ResNet_CIFAR.arch_settings) == {18, 34, 50, 101, 152}


def test_builds_from_a_config_of_another_scope():
    assert isinstance(MODELS.build({"type": "mmkdprune.CifarResNet", "depth": "8x4"}), CifarResNet)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 21}, "depth must be one of .* got 21"),
        ({"depth": 20, "block": "wide"}, "block must be one of .* got 'wide'"),
        ({"depth": 32, "block": "bottleneck"}, "depth 32 cannot be built from bottleneck"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        CifarResNet(**arguments)


def test_linear_stem_has_the_same_keys():
    ours, stock = LinearStemResNetCIFAR(depth=18), ResNet_CIFAR(depth=18)
    assert list(ours.state_dict()) == list(stock.state_dict())
