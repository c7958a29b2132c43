import pytest
import torch
from testing_helpers import count_parameters

from mmkdprune.models.backbones import CifarShuffleNetV1


def test_parameter_count_with_100_classes():
    assert count_parameters(CifarShuffleNetV1()) + 100 * 960 + 100 == 949_258


def test_feature_maps():
    maps = CifarShuffleNetV1(out_indices=(0, 1, 2))(torch.randn(2, 3, 32, 32))
    shapes = [tuple(feature_map.shape[1:]) for feature_map in maps]
    assert shapes == [(240, 16, 16), (480, 8, 8), (960, 4, 4)]
    assert all(feature_map.min() == 0 for feature_map in maps)


def test_groups():
    backbone = CifarShuffleNetV1()
    assert backbone.stage1[0].compress.conv.groups == 1
    assert backbone.stage1[1].compress.conv.groups == backbone.stage2[0].compress.conv.groups == 3
    assert backbone.stage2[0].compress.conv.out_channels == (480 - 240) // 4
    assert [CifarShuffleNetV1(groups).stage_channels[0] for groups in (1, 2, 3)] == [144, 200, 240]


def test_repeated_last_stage_adds_in_every_unit():
    backbone = CifarShuffleNetV1()
    backbone.stage_protocol().repeat_last_stage(backbone)
    assert all(unit.shortcut is None for unit in backbone.stage3)
    assert all(unit.depthwise.conv.stride == (1, 1) for unit in backbone.stage3)


def test_bad_input():
    with pytest.raises(ValueError, match=r"CifarShuffleNetV1: groups must be one of .* got 4"):
        CifarShuffleNetV1(groups=4)
