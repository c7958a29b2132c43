import itertools

import pytest
import torch
import torch.nn.functional as F
from mmcv.ops import MaskedConv2d
from mmcv.ops.psa_mask import psa_mask


@pytest.mark.parametrize("size", [(5, 7), (3, 3), (9, 9)])
@pytest.mark.parametrize("kind", [0, 1])
def test_psa_masks(kind, size):
    maps = torch.randn(2, size[0] * size[1], 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    maps.requires_grad_()
    expected = torch.zeros(2, 3, 4, 3, 4, dtype=torch.float64)  # target, then pixel
    half = [(extent - 1) // 2 for extent in size]
    for y, x, row, column in itertools.product(range(3), range(4), range(3), range(4)):
        i, j = row - y + half[0], column - x + half[1]
        if 0 <= i < size[0] and 0 <= j < size[1]:
            expected[:, row, column, y, x] = maps[:, i * size[1] + j, y, x]
    expected = expected.permute(0, 3, 4, 1, 2) if kind else expected
    output = psa_mask(maps, kind, size)
    torch.testing.assert_close(output, expected.reshape(2, 12, 3, 4), rtol=0, atol=0)
    weights = torch.randn_like(output)
    (gradient,) = torch.autograd.grad(output, maps, weights)
    (wanted,) = torch.autograd.grad(expected, maps, weights.view_as(expected))
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=0)


@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), ((1, 3), (0, 1))])
def test_masked_convolution(kernel, padding):
    torch.manual_seed(0)
    convolution = MaskedConv2d(3, 5, kernel, padding=padding)
    features, mask = torch.randn(1, 3, 6, 7), torch.rand(1, 6, 7) > 0.6
    with torch.no_grad():
        expected = F.conv2d(features, convolution.weight, convolution.bias, padding=padding) * mask
        torch.testing.assert_close(convolution(features, mask), expected)
        assert not convolution(features, torch.zeros_like(mask)).any()
