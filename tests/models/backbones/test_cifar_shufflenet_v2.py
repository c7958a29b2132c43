import pytest
import torch
from mmpretrain.models.backbones.shufflenet_v2 import InvertedResidual
from testing_helpers import (
    assert_matches_mcl_golden,
    count_parameters,
)

from mmkdprune.models.backbones import CifarShuffleNetV2
from mmkdprune.models.backbones.cifar_shufflenet_v2 import DownUnit

# with a linear classifier of 100 classes
PARAMETERS = {(1.0, 1): 1_355_528, (1.0, 3): 1_356_104, (0.5, 3): 444_292}


@pytest.mark.parametrize(("arguments", "expected"), PARAMETERS.items())
def test_parameter_counts(arguments, expected):
    assert count_parameters(CifarShuffleNetV2(*arguments)) + 100 * 1024 + 100 == expected


@pytest.mark.parametrize(
    ("widen_factor", "entry", "num_networks"),
    [
        (0.5, "mcl_ShuffleNetV2_05x_x2", 2),
        (1.0, "mcl_ShuffleNetV2_1x_x2", 2),
        (1.0, "mcl_ShuffleNetV2_1x_x4", 4),
        (1.0, "lmcl_ShuffleNetV2_1x_cifar", None),
    ],
)
def test_golden_outputs(widen_factor, entry, num_networks):
    assert_matches_mcl_golden(CifarShuffleNetV2(widen_factor, stem_kernel=3), entry, num_networks)


def test_feature_maps():
    maps = CifarShuffleNetV2(out_indices=(0, 1, 2))(torch.randn(2, 3, 32, 32))
    assert [tuple(feature_map.shape[1:]) for feature_map in maps] == [(116, 16, 16), (232, 8, 8), (1024, 4, 4)]


def test_down_unit_of_stride_2_is_the_stock_block():
    ours = DownUnit(24, 48, stride=2, norm_cfg={"type": "BN"}).eval()
    stock = InvertedResidual(24, 48, stride=2).eval()
    stock.load_state_dict(ours.state_dict())
    x = torch.randn(2, 24, 8, 8)
    assert torch.equal(ours(x), stock(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widen_factor": 2.0}, "widen_factor must be 0.5 or 1.0, got 2.0"),
        ({"stem_kernel": 2}, "stem_kernel must be 1 or 3, got 2"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        CifarShuffleNetV2(**arguments)
