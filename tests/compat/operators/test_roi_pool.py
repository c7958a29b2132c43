import torch
from mmcv.ops import roi_pool
from operator_references import random_regions
from operator_references import roi_pool as reference

from mmkdprune.compat.operators import sampling


def problem():
    features = torch.randn(2, 3, 7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    regions = random_regions(6, 2, 16, seed=3).double()
    regions[0, 3:] = regions[0, 1:3] - 3  # turned round
    regions[1, 1:] = torch.tensor([30, 2, 34, 6])  # outside
    return features.requires_grad_(), regions


def test_values_and_gradients(monkeypatch):
    monkeypatch.setattr(sampling, "CHUNK", 500)
    features, regions = problem()
    pooled, expected = roi_pool(features, regions, (3, 2), 0.5), reference(features, regions, (3, 2), 0.5)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=0)
    assert not pooled[:2].any()
    weights = torch.randn(pooled.shape, dtype=pooled.dtype, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad(pooled, features, weights)
    (wanted,) = torch.autograd.grad(expected, features, weights)
    assert wanted.abs().sum() > 0
    torch.testing.assert_close(gradient, wanted)


def test_it_differs_from_torchvision():
    """torchvision rounds the corners; MMCV does not, and counts the last pixel in before it scales."""
    from torchvision.ops import roi_pool as of_torchvision

    features, regions = problem()
    regions = regions[2:]
    assert not torch.equal(roi_pool(features, regions, (3, 2), 0.5), of_torchvision(features, regions, (3, 2), 0.5))


def test_no_regions():
    features, regions = problem()
    pooled = roi_pool(features, regions[:0], (3, 2), 0.5)
    assert pooled.shape == (0, 3, 3, 2)
    pooled.sum().backward()
    assert not features.grad.any()
