import pytest
import torch
from testing_helpers import (
    assert_matches_mcl_golden,
    count_parameters,
)

from mmkdprune.models.backbones import CifarWideResNet

# with a linear classifier of 100 classes
PARAMETERS = {(16, 2): 703_284, (40, 1): 569_780, (40, 2): 2_255_156, (28, 4): 5_872_180}


@pytest.mark.parametrize(("arguments", "expected"), PARAMETERS.items())
def test_parameter_counts(arguments, expected):
    backbone = CifarWideResNet(*arguments)
    assert count_parameters(backbone) + 100 * backbone.feat_dim + 100 == expected


@pytest.mark.parametrize(
    ("arguments", "entry", "num_networks"),
    [
        ((16, 2), "mcl_wrn_16_2_x2", 2),
        ((16, 2), "mcl_wrn_16_2_x4", 4),
        ((40, 2), "mcl_wrn_40_2_x2", 2),
        ((28, 4), "mcl_wrn_28_4_x4", 4),
        ((16, 2), "lmcl_wrn_16_2_cifar", None),
    ],
)
def test_golden_outputs(arguments, entry, num_networks):
    assert_matches_mcl_golden(CifarWideResNet(*arguments), entry, num_networks)


def test_feature_maps():
    backbone = CifarWideResNet(16, 2, out_indices=(0, 1, 2))
    maps = backbone(torch.randn(2, 3, 32, 32))
    assert [tuple(feature_map.shape[1:]) for feature_map in maps] == [(32, 32, 32), (64, 16, 16), (128, 8, 8)]
    assert maps[0].min() < 0  # raw output of a block
    assert maps[2].min() == 0  # after the last ReLU


def test_shortcuts_take_the_activated_input_only_where_channels_change():
    first, second = CifarWideResNet(16, 2).eval().stage2
    assert second.shortcut is None
    for block in (first, second):
        torch.nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 32, 8, 8)
    torch.testing.assert_close(first(x), first.shortcut(first.norm1(x).relu()))
    x = torch.randn(2, 64, 8, 8)
    assert torch.equal(second(x), x)
    assert CifarWideResNet(40, 1).stage1[0].shortcut is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 18, "widen_factor": 2}, r"depth must be 6n \+ 4 .* got 18"),
        ({"depth": 4, "widen_factor": 2}, r"depth must be 6n \+ 4 .* got 4"),
        ({"depth": "16", "widen_factor": 2}, r"depth must be a whole number, got '16'"),
        ({"depth": 16, "widen_factor": 0}, "widen_factor must be an integer of 1 or more, got 0"),
        ({"depth": 16, "widen_factor": 0.5}, "widen_factor must be .* got 0.5"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        CifarWideResNet(**arguments)
