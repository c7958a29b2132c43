import pytest
import torch
from testing_helpers import count_parameters
from torch import nn

from mmkdprune.models.backbones import CifarVGG


def test_parameter_count_with_100_classes():
    assert count_parameters(CifarVGG()) + 100 * 512 + 100 == 9_462_180


@pytest.mark.parametrize("depth", [8, 11, 13, 16, 19])
def test_depth_counts_three_fully_connected_layers(depth):
    convolutions = [module for module in CifarVGG(depth).modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == depth - 3
    assert all(convolution.bias is not None for convolution in convolutions)


def test_feature_maps():
    maps = CifarVGG(out_indices=(0, 1, 2, 3))(torch.randn(2, 3, 32, 32))
    shapes = [tuple(feature_map.shape[1:]) for feature_map in maps]
    assert shapes == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]
    assert all(feature_map.min() == 0 for feature_map in maps)


def test_pooling_before_the_last_block_is_a_choice():
    backbone = CifarVGG(8, pool_last_block=True, out_indices=(2, 3))
    maps = backbone(torch.randn(2, 3, 64, 64))
    assert [tuple(feature_map.shape[1:]) for feature_map in maps] == [(256, 16, 16), (512, 4, 4)]
    protocol = backbone.stage_protocol()
    assert protocol.feature_shapes(backbone)[-1] == (512, 16)
    protocol.repeat_last_stage(backbone)
    assert not any(isinstance(module, nn.MaxPool2d) for module in protocol.stages(backbone)[-1].modules())
    assert CifarVGG(8)(torch.randn(2, 3, 64, 64))[0].shape == (2, 512, 8, 8)


def test_there_is_no_stem_to_freeze():
    assert all(parameter.requires_grad for parameter in CifarVGG(8, frozen_stages=0).parameters())
    assert not any(parameter.requires_grad for parameter in CifarVGG(8, frozen_stages=1).stage1.parameters())


def test_bad_input():
    with pytest.raises(ValueError, match=r"CifarVGG: depth must be one of .* got 12"):
        CifarVGG(12)
