import torch
from mmcv.ops import deform_roi_pool, roi_align
from operator_references import random_regions

from mmkdprune.compat.operators import sampling

BINS, SCALE, GAMMA = (3, 2), 0.5, 0.1


def problem():
    features = torch.randn(2, 3, 7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return features.requires_grad_(), random_regions(4, 2, 16, seed=1).double()


def test_without_offsets_it_is_roi_align(monkeypatch):
    monkeypatch.setattr(sampling, "CHUNK", 100)
    features, regions = problem()
    for ratio in (0, 2):
        expected = roi_align(features, regions, BINS, SCALE, ratio, "avg", True)
        zeros = torch.zeros(4, 2, *BINS, dtype=torch.float64, requires_grad=True)
        for offset in (None, zeros):
            pooled = deform_roi_pool(features, regions, offset, BINS, SCALE, ratio, GAMMA)
            torch.testing.assert_close(pooled, expected)
            weights = torch.ones_like(pooled)
            torch.testing.assert_close(
                torch.autograd.grad(pooled, features, weights), torch.autograd.grad(expected, features, weights, True)
            )


def test_an_offset_moves_its_bin_by_a_share_of_the_region():
    features, regions = problem()
    offset = torch.zeros(4, 2, *BINS, dtype=torch.float64)
    offset[:, 0, 1, 0], offset[:, 1, 1, 0] = 1.5, -0.5
    pooled = deform_roi_pool(features, regions, offset, BINS, SCALE, 2, GAMMA)
    moved = regions.clone()
    moved[:, 1::2] += GAMMA * 1.5 * (regions[:, 3:4] - regions[:, 1:2])
    moved[:, 2::2] -= GAMMA * 0.5 * (regions[:, 4:5] - regions[:, 2:3])
    expected = roi_align(features, regions, BINS, SCALE, 2, "avg", True)
    assert not torch.allclose(pooled, expected)
    expected = expected.clone()
    expected[:, :, 1, 0] = roi_align(features, moved, BINS, SCALE, 2, "avg", True)[:, :, 1, 0]
    torch.testing.assert_close(pooled, expected)


def test_offsets_of_nan_lie_outside():
    features, regions = problem()
    offset = torch.zeros(4, 2, *BINS, dtype=torch.float64)
    offset[0, 0, 0, 0] = torch.nan
    pooled = deform_roi_pool(features, regions, offset, BINS, SCALE, 2, GAMMA)
    assert not pooled[0, :, 0, 0].any()
    expected = deform_roi_pool(features, regions, torch.zeros_like(offset), BINS, SCALE, 2, GAMMA)
    torch.testing.assert_close(pooled[1:], expected[1:])


def test_gradcheck():
    features, regions = problem()
    regions[:, 1:] = torch.tensor([2.0, 2, 12, 10]) + torch.arange(4)[:, None] / 7  # inside: smooth
    offset = torch.randn(4, 2, *BINS, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) / 3
    offset.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *x: deform_roi_pool(x[0], regions, x[1], BINS, SCALE, 2, GAMMA), (features, offset), fast_mode=True
    )
