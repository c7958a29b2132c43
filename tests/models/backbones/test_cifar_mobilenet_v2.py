import pytest
import torch
from testing_helpers import count_parameters
from torch import nn

from mmkdprune.models.backbones import CifarMobileNetV2


def test_parameter_count_with_100_classes():
    assert count_parameters(CifarMobileNetV2()) + 100 * 1280 + 100 == 812_836


def test_feature_maps():
    maps = CifarMobileNetV2(out_indices=(0, 1, 2, 3))(torch.randn(2, 3, 32, 32))
    shapes = [tuple(feature_map.shape[1:]) for feature_map in maps]
    assert shapes == [(12, 32, 32), (16, 16, 16), (48, 8, 8), (1280, 4, 4)]
    assert maps[0].min() < 0  # output of a linear bottleneck


def test_what_differs_from_the_stock_network():
    backbone = CifarMobileNetV2()
    assert len(backbone.stage1[0].conv) == 3  # the 1x1 convolution that does not expand is kept
    assert not any(isinstance(module, nn.ReLU6) for module in backbone.modules())


def test_factors():
    assert CifarMobileNetV2(1.0).stage_channels == (24, 32, 96, 320)
    assert CifarMobileNetV2(1.0).feat_dim == 1280
    assert CifarMobileNetV2(2.0).feat_dim == 2560
    assert CifarMobileNetV2(expand_ratio=4).stage2[0].conv[0].conv.out_channels == 4 * 12


def test_repeated_last_stage():
    backbone = CifarMobileNetV2()
    backbone.stage_protocol().repeat_last_stage(backbone)
    depthwise = [block.conv[1].conv for block in backbone.stage4]
    assert all(convolution.stride == (1, 1) for convolution in depthwise)
    assert [convolution.in_channels for convolution in depthwise] == [6 * 160, 6 * 80, 6 * 80, 6 * 80]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widen_factor": 0.01}, "widen_factor must be 1/16 or more, got 0.01"),
        ({"expand_ratio": 0}, "expand_ratio must be 1 or more, got 0"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        CifarMobileNetV2(**arguments)
