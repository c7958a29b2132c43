import pytest
import torch
from mmcv.ops import RoIAlign, roi_align
from operator_references import random_regions
from operator_references import roi_align as reference

from mmkdprune.compat.operators import sampling, sampling_matrix, sampling_maximum

BINS = (3, 2)


def problem(dtype=torch.float64, count=4):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 7, 9, dtype=dtype, generator=generator)
    return features, random_regions(count, 2, 16, seed=1).to(dtype)


FORMS = {"product": ("avg", 1000), "few": ("avg", 0), "maximum": ("max", 1000), "maximum of few": ("max", 0)}


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("form", FORMS)
def test_values_and_gradients(form, sampling_ratio, aligned, monkeypatch):
    monkeypatch.setattr(sampling, "CHUNK", 100)  # a region at a time
    monkeypatch.setattr(sampling_matrix, "ENTRIES", 100)
    mode, pixels_per_sample = FORMS[form]
    monkeypatch.setattr(sampling_matrix, "PIXELS_PER_SAMPLE", pixels_per_sample)
    features, regions = problem()
    regions[1, 1:] = torch.tensor([-6.0, -9, 30, 26])  # beyond all borders
    regions[0, 3:] = regions[0, 1:3] + 0.3  # smaller than a pixel
    features.requires_grad_()
    settings = (BINS, 0.5, sampling_ratio, mode, aligned)
    pooled = roi_align(features, regions, *settings)
    expected = reference(features, regions, *settings)
    torch.testing.assert_close(pooled, expected, rtol=1e-10, atol=1e-10)
    weights = torch.randn(pooled.shape, dtype=pooled.dtype, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad(pooled, features, weights)
    (wanted,) = torch.autograd.grad(expected, features, weights)
    assert wanted.abs().sum() > 0
    torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_gradcheck(form, monkeypatch):
    mode, pixels_per_sample = FORMS[form]
    monkeypatch.setattr(sampling_matrix, "PIXELS_PER_SAMPLE", pixels_per_sample)
    features, regions = problem(count=2)
    features.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: roi_align(x, regions, BINS, 0.5, 2, mode, True), features, fast_mode=True)


def test_the_form_follows_from_the_size_of_the_map():
    _, regions = problem()
    settings = (BINS, 0.5, 2, True)  # 4 regions of 6 bins with 4 samples each
    assert sampling_matrix.pays_off(torch.Size((2, 3, 13, 14)), regions, settings)
    assert not sampling_matrix.pays_off(torch.Size((2, 3, 14, 14)), regions, settings)
    assert not sampling_matrix.pays_off(torch.Size((2, 3, 1, 1)), regions[:0], settings)


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_no_regions(mode):
    features, regions = problem()
    features.requires_grad_()
    pooled = roi_align(features, regions[:0], BINS, 0.5, 0, mode, True)
    assert pooled.shape == (0, 3, *BINS)
    pooled.sum().backward()
    assert not features.grad.any()


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_a_region_without_extent_gives_zero(mode):
    features, regions = problem()
    features.requires_grad_()
    regions[:, 3:] = regions[:, 1:3]
    pooled = roi_align(features, regions, BINS, 0.5, 0, mode, True)
    pooled.sum().backward()
    assert not pooled.any()
    assert not features.grad.any()


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_lose_no_coordinates(dtype, mode):
    features, regions = problem(torch.float32)
    regions[:, 1:] += 0.01  # lost in a half type
    half = RoIAlign(BINS, 0.5, 2, mode)(features.to(dtype), regions)
    assert half.dtype == dtype
    exact = RoIAlign(BINS, 0.5, 2, mode)(features.to(dtype).float(), regions)
    torch.testing.assert_close(half, exact.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("form", FORMS)
def test_mixed_precision_leaves_single_precision_alone(form, monkeypatch):
    mode, pixels_per_sample = FORMS[form]
    monkeypatch.setattr(sampling_matrix, "PIXELS_PER_SAMPLE", pixels_per_sample)
    features, regions = problem(torch.float32)
    features.requires_grad_()
    expected = roi_align(features, regions, BINS, 0.5, 2, mode, True)
    (wanted,) = torch.autograd.grad(expected.square().sum(), features)
    with torch.autocast("cpu", torch.bfloat16):
        pooled = roi_align(features, regions, BINS, 0.5, 2, mode, True)
        (gradient,) = torch.autograd.grad(pooled.square().sum(), features)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=0)
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("region", "message"),
    [([0, float("nan"), 0, 3, 3], "diverged"), ([0, 0, 0, 3, float("inf")], "diverged"), ([2, 0, 0, 3, 3], "images 2")],
)
def test_regions_that_would_crash_the_kernel_are_refused(region, message):
    with pytest.raises(ValueError, match=message):
        roi_align(problem(torch.float32)[0], torch.tensor([region], dtype=torch.float32), BINS)


@pytest.mark.parametrize("size", [(1, 9), (7, 1), (1, 1)])
@pytest.mark.parametrize("form", FORMS)
def test_maps_of_a_pixel_in_a_direction(form, size, monkeypatch):
    mode, pixels_per_sample = FORMS[form]
    monkeypatch.setattr(sampling_matrix, "PIXELS_PER_SAMPLE", pixels_per_sample)
    features, regions = problem()
    features = features[:, :, : size[0], : size[1]].requires_grad_()
    regions[0, 1:] = torch.tensor([-1.0, -1, 3, 3])
    pooled = roi_align(features, regions, BINS, 0.5, 2, mode, True)
    expected = reference(features, regions, BINS, 0.5, 2, mode, True)
    torch.testing.assert_close(pooled, expected, rtol=1e-10, atol=1e-10)
    gradients = [torch.autograd.grad(each.square().sum(), features)[0] for each in (pooled, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


def test_a_gradient_that_is_not_contiguous(stand_in, monkeypatch):
    """MMCV's own is; then the kernel computes it."""
    monkeypatch.setattr(sampling_matrix, "PIXELS_PER_SAMPLE", 0)
    features, regions = problem()
    settings = dict(zip(("aligned_height", "aligned_width"), BINS, strict=True), spatial_scale=0.5, sampling_ratio=2)
    gradient, places = torch.ones(4, 3, *BINS, dtype=features.dtype), torch.zeros(0)
    found = []
    for layout in (torch.channels_last, torch.contiguous_format):
        found.append(torch.zeros_like(features, memory_format=layout))
        stand_in.roi_align_backward(gradient, regions, places, places, found[-1], pool_mode=1, aligned=True, **settings)
    assert found[0].any()
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_maximum_over_a_region_of_nan_reads_nothing(sampling_ratio):
    """On a GPU regions are not looked at before."""
    features, regions = problem(count=3)
    regions[0, 1:], regions[1, 3], regions[2, 1:] = torch.nan, torch.inf, torch.tensor([2.0, 2, 12, 10])
    regions = regions if sampling_ratio else regions[::2]  # 0 would ask for infinitely many samples
    output = torch.ones(len(regions), 3, *BINS, dtype=features.dtype)
    y, x = torch.zeros_like(output), torch.zeros_like(output)
    sampling_maximum.pool(features, regions, (BINS, 0.5, sampling_ratio, True), output, y, x)
    assert not output[:-1].any()
    assert output[-1].all()
    gradient = torch.zeros_like(features)
    sampling_maximum.spread(torch.ones_like(output), regions, y, x, gradient)
    assert gradient.any()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_half_types_get_the_gradient_of_single_precision(mode):
    features, regions = problem(torch.float32)
    features, regions = features.half(), (regions * 4).round() / 4  # places that a half type holds
    gradients = []
    for each in (features.requires_grad_(), features.detach().float().requires_grad_()):
        (gradient,) = torch.autograd.grad(roi_align(each, regions, (2, 2), 0.5, 2, mode, True).sum(), each)
        gradients.append(gradient.float())
    assert gradients[0].any()
    torch.testing.assert_close(*gradients, rtol=1e-2, atol=1e-2)
