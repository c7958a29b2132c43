import itertools

import pytest
import torch
from mmcv.ops import carafe
from mmcv.ops.carafe import carafe_naive

KERNEL, GROUPS, SCALE = 3, 2, 2


def problem():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 4, 3, 4, dtype=torch.float64, generator=generator)
    kernels = torch.rand(2, GROUPS * KERNEL**2, 6, 8, dtype=torch.float64, generator=generator)
    return features.requires_grad_(), kernels.requires_grad_()


def reference(features, kernels):
    count, channels, height, width = features.shape
    output = features.new_zeros(count, channels, height * SCALE, width * SCALE)
    for y, x, i, j in itertools.product(range(height * SCALE), range(width * SCALE), range(KERNEL), range(KERNEL)):
        row, column = y // SCALE + i - KERNEL // 2, x // SCALE + j - KERNEL // 2
        if 0 <= row < height and 0 <= column < width:
            for channel in range(channels):
                tap = (channel // (channels // GROUPS) * KERNEL + i) * KERNEL + j
                output[:, channel, y, x] += features[:, channel, row, column] * kernels[:, tap, y, x]
    return output


@pytest.mark.parametrize("function", [carafe, carafe_naive])
def test_values(function):
    features, kernels = problem()
    torch.testing.assert_close(function(features, kernels, KERNEL, GROUPS, SCALE), reference(features, kernels))


def test_gradients():
    features, kernels = problem()
    assert torch.autograd.gradcheck(lambda *x: carafe(*x, KERNEL, GROUPS, SCALE), (features, kernels), fast_mode=True)
    output = carafe(features, kernels, KERNEL, GROUPS, SCALE)
    weights = torch.randn_like(output)
    for mine, wanted in zip(
        torch.autograd.grad(output, (features, kernels), weights),
        torch.autograd.grad(reference(features, kernels), (features, kernels), weights),
        strict=True,
    ):
        torch.testing.assert_close(mine, wanted)


def test_half_types_sum_in_single_precision():
    features, kernels = (tensor.detach().bfloat16() for tensor in problem())
    exact = carafe(features.float(), kernels.float(), KERNEL, GROUPS, SCALE)
    torch.testing.assert_close(carafe(features, kernels, KERNEL, GROUPS, SCALE), exact.bfloat16(), rtol=0, atol=0)
