"""Every operator beside the compiled one, where MMCV is compiled and has it for a CPU."""

import importlib.machinery
import importlib.util

import pytest
import torch
from operator_references import random_boxes, random_regions

from mmkdprune.compat.mmcv_ops import EXTENSION


@pytest.fixture(scope="module")
def compiled():
    spec = importlib.util.find_spec(EXTENSION)
    if spec is None or not isinstance(spec.loader, importlib.machinery.ExtensionFileLoader):
        pytest.skip("MMCV is not compiled")
    return importlib.import_module(EXTENSION)


@pytest.fixture
def both(compiled, stand_in):
    """Call the operator of both with copies of the same tensors; return results and tensors afterwards."""

    def run(name, *tensors, **settings):
        outcomes = []
        for extension in (compiled, stand_in):
            copies = [tensor.clone() for tensor in tensors]
            try:
                result = getattr(extension, name)(*copies, **settings)
            except RuntimeError as error:
                if any(mark in str(error) for mark in ("implementation for device", "not in this reduced build")):
                    pytest.skip(f"this MMCV has no {name} for a CPU")
                raise
            outcomes.append((result, copies))
        return outcomes

    return run


def same(outcomes, tolerance=1e-5):
    (theirs, their_tensors), (ours, our_tensors) = outcomes
    if theirs is not None:
        assert torch.equal(theirs, ours)
    for mine, wanted in zip(our_tensors, their_tensors, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=tolerance, atol=tolerance)
    return our_tensors


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("offset", [0, 1])
def test_nms(both, offset):
    boxes, scores = random_boxes(500, 100, seed=1), torch.rand(500, generator=torch.Generator().manual_seed(2))
    same(both("nms", boxes, scores, iou_threshold=0.5, offset=offset))


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("method", [0, 1, 2])
def test_soft_nms(both, method, offset):
    boxes, scores = random_boxes(200, 100, seed=1), torch.rand(200, generator=torch.Generator().manual_seed(2))
    settings = {"iou_threshold": 0.3, "sigma": 0.5, "min_score": 0.05, "method": method, "offset": offset}
    (theirs, wanted), (ours, mine) = both("softnms", boxes, scores, torch.empty(200, 5), **settings)
    assert torch.equal(theirs, ours)
    torch.testing.assert_close(mine[2][: len(ours)], wanted[2][: len(ours)])


def test_groups(both):
    dets = torch.cat((random_boxes(300, 60, seed=1), normal(300, 1)), dim=1)
    (theirs, _), (ours, _) = both("nms_match", dets, iou_threshold=0.4)
    assert theirs == ours


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("offset", [0, 1])
def test_overlaps(both, mode, aligned, offset):
    one, other = random_boxes(30, 40, seed=1), random_boxes(30, 40, seed=2)
    ious = torch.zeros(30) if aligned else torch.zeros(30, 30)
    same(both("bbox_overlaps", one, other, ious, mode=mode, aligned=aligned, offset=offset))


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("pool_mode", [0, 1])
def test_roi_align(both, pool_mode, sampling_ratio, aligned):
    features, regions = normal(2, 5, 20, 30), random_regions(40, 2, 60, seed=3)
    output = torch.zeros(40, 5, 7, 6)
    places = torch.zeros_like(output) if pool_mode == 0 else torch.zeros(0)
    settings = {"aligned_height": 7, "aligned_width": 6, "spatial_scale": 0.5, "sampling_ratio": sampling_ratio}
    settings |= {"pool_mode": pool_mode, "aligned": aligned}
    _, _, pooled, y, x = same(both("roi_align_forward", features, regions, output, places, places, **settings))
    gradient = normal(*pooled.shape, seed=4)
    same(both("roi_align_backward", gradient, regions, y, x, torch.zeros_like(features), **settings))


def test_roi_pool(both):
    features, regions, output = normal(2, 5, 20, 30), random_regions(40, 2, 60, seed=3), torch.zeros(40, 5, 7, 6)
    settings = {"pooled_height": 7, "pooled_width": 6, "spatial_scale": 0.5}
    places = same(both("roi_pool_forward", features, regions, output, output.int(), **settings))[3]
    gradient = normal(*output.shape, seed=4)
    same(both("roi_pool_backward", gradient, regions, places, torch.zeros_like(features), **settings))


GEOMETRY = {"kW": 3, "kH": 3, "dW": 2, "dH": 1, "padW": 1, "padH": 2, "dilationW": 1, "dilationH": 2}
GEOMETRY |= {"group": 2, "deformable_group": 2, "im2col_step": 2}


def test_deform_conv(both):
    features, weight, offset = normal(4, 4, 9, 8), normal(6, 2, 3, 3, seed=1), normal(4, 36, 9, 4, seed=2)
    output, empty = torch.zeros(4, 6, 9, 4), torch.zeros(0)
    (_, wanted), (_, mine) = both("deform_conv_forward", features, weight, offset, output, empty, empty, **GEOMETRY)
    torch.testing.assert_close(mine[3], wanted[3], rtol=1e-4, atol=1e-4)
    gradient = normal(4, 6, 9, 4, seed=3)
    tensors = (features, offset, gradient, torch.zeros_like(features), torch.zeros_like(offset), weight, empty)
    (_, wanted), (_, mine) = both("deform_conv_backward_input", *tensors, **GEOMETRY)
    for index in (3, 4):
        torch.testing.assert_close(mine[index], wanted[index], rtol=1e-4, atol=1e-4)
    tensors = (features, offset, gradient, torch.zeros_like(weight), empty, empty)
    (_, wanted), (_, mine) = both("deform_conv_backward_parameters", *tensors, scale=0.5, **GEOMETRY)
    torch.testing.assert_close(mine[3], wanted[3], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("with_bias", [False, True])
def test_modulated_deform_conv(both, with_bias):
    settings = {"kernel_h": 3, "kernel_w": 3, "stride_h": 1, "stride_w": 2, "pad_h": 2, "pad_w": 1, "dilation_h": 2}
    settings |= {"dilation_w": 1, "group": 2, "deformable_group": 2, "with_bias": with_bias}
    features, weight, offset = normal(4, 4, 9, 8), normal(6, 2, 3, 3, seed=1), normal(4, 36, 9, 4, seed=2)
    mask, bias = normal(4, 18, 9, 4, seed=5), normal(6, seed=6) if with_bias else torch.zeros(0)
    output, empty = torch.zeros(4, 6, 9, 4), torch.zeros(0)
    tensors = (features, weight, bias, empty, offset, mask, output, empty)
    (_, wanted), (_, mine) = both("modulated_deform_conv_forward", *tensors, **settings)
    torch.testing.assert_close(mine[6], wanted[6], rtol=1e-4, atol=1e-4)
    gradients = [torch.zeros_like(tensor) for tensor in (features, weight, bias, offset, mask)]
    tensors = (features, weight, bias, empty, offset, mask, empty, *gradients, normal(4, 6, 9, 4, seed=3))
    (_, wanted), (_, mine) = both("modulated_deform_conv_backward", *tensors, **settings)
    for index in range(7, 12):
        torch.testing.assert_close(mine[index], wanted[index], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("psa_type", [0, 1])
def test_psa_masks(both, psa_type):
    settings = {"psa_type": psa_type, "num_": 2, "h_feature": 4, "w_feature": 5, "h_mask": 7, "w_mask": 3}
    settings |= {"half_h_mask": 3, "half_w_mask": 1}
    same(both("psamask_forward", normal(2, 21, 4, 5), torch.zeros(2, 20, 4, 5), **settings))
    same(both("psamask_backward", normal(2, 20, 4, 5), torch.zeros(2, 21, 4, 5), **settings))
