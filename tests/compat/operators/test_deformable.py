import pytest
import torch
from mmcv.ops import deform_conv2d, modulated_deform_conv2d
from operator_references import deform_conv as reference

# stride, padding, dilation, groups, groups of offsets
GEOMETRIES = [(1, 1, 1, 1, 1), (2, 1, 1, 2, 1), (1, 2, 2, 1, 2), (2, 0, 1, 2, 2)]


def problem(geometry, kernel=3):
    stride, padding, dilation, groups, deform_groups = geometry
    generator = torch.Generator().manual_seed(0)
    height, width = ((size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for size in (5, 6))
    taps = deform_groups * kernel * kernel
    shapes = {
        "features": (2, 4, 5, 6),
        "offset": (2, 2 * taps, height, width),
        "mask": (2, taps, height, width),
        "weight": (4, 4 // groups, kernel, kernel),
        "bias": (4,),
    }
    return {
        name: torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
        for name, shape in shapes.items()
    }


def gradients_agree(one, other, inputs):
    weights = torch.randn(one.shape, dtype=one.dtype, generator=torch.Generator().manual_seed(1))
    for mine, wanted in zip(
        torch.autograd.grad(one, inputs, weights), torch.autograd.grad(other, inputs, weights), strict=True
    ):
        torch.testing.assert_close(mine, wanted, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_plain(geometry):
    t = problem(geometry)
    output = deform_conv2d(t["features"], t["offset"], t["weight"], *geometry, False, 1)
    expected = reference(t["features"], t["offset"], None, t["weight"], *geometry)
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-10)
    gradients_agree(output, expected, [t["features"], t["weight"]])


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_modulated(geometry, with_bias):
    t = problem(geometry)
    bias = t["bias"] if with_bias else None
    output = modulated_deform_conv2d(t["features"], t["offset"], t["mask"], t["weight"], bias, *geometry)
    expected = reference(t["features"], t["offset"], t["mask"], t["weight"], *geometry)
    expected = expected + t["bias"][:, None, None] if with_bias else expected
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-10)
    gradients_agree(output, expected, [t["features"], t["mask"], t["weight"]] + ([t["bias"]] if with_bias else []))


def test_gradcheck_by_all_inputs():
    t = problem((2, 1, 1, 2, 2))
    names = ("features", "offset", "mask", "weight", "bias")

    def run(*tensors):
        return modulated_deform_conv2d(*tensors, 2, 1, 1, 2, 2)

    assert torch.autograd.gradcheck(run, [t[name] for name in names], fast_mode=True)

    def run_plain(features, offset, weight):
        return deform_conv2d(features, offset, weight, 2, 1, 1, 2, 2)

    assert torch.autograd.gradcheck(run_plain, [t["features"], t["offset"], t["weight"]], fast_mode=True)


def test_without_offsets_it_is_a_convolution():
    t = problem((1, 1, 1, 1, 1))
    output = deform_conv2d(t["features"], torch.zeros_like(t["offset"]), t["weight"], 1, 1)
    torch.testing.assert_close(output, torch.nn.functional.conv2d(t["features"], t["weight"], padding=1))


@pytest.mark.parametrize("frozen", ["features and offset", "weight"])
def test_frozen_parts(frozen):
    t = problem((1, 1, 1, 1, 1))
    for name in frozen.split(" and "):
        t[name].requires_grad_(False)
    output = deform_conv2d(t["features"], t["offset"], t["weight"], 1, 1)
    expected = reference(t["features"], t["offset"], None, t["weight"], 1, 1, 1, 1, 1)
    gradients_agree(output, expected, [t["features"] if frozen == "weight" else t["weight"]])


def test_two_backward_passes():
    t = problem((1, 1, 1, 1, 1))
    output = deform_conv2d(t["features"], t["offset"], t["weight"], 1, 1)
    first, second = (torch.autograd.grad(output.sum(), t["weight"], retain_graph=True)[0] for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_nan_in_the_offsets_reads_nothing():
    t = problem((1, 1, 1, 1, 1))
    broken = torch.full_like(t["offset"], float("nan")).requires_grad_()
    output = deform_conv2d(t["features"], broken, t["weight"], 1, 1)
    output.sum().backward()
    assert not output.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types(dtype):
    t = {name: tensor.detach().to(dtype) for name, tensor in problem((1, 1, 1, 1, 1)).items()}
    output = modulated_deform_conv2d(t["features"], t["offset"], t["mask"], t["weight"], t["bias"], 1, 1)
    full = {name: tensor.float() for name, tensor in t.items()}
    exact = modulated_deform_conv2d(full["features"], full["offset"], full["mask"], full["weight"], full["bias"], 1, 1)
    assert output.dtype == dtype
    torch.testing.assert_close(output, exact.to(dtype), rtol=0, atol=0)
