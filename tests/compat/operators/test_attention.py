import torch
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction, multi_scale_deformable_attn_pytorch


def test_the_function_of_the_gpu_path():
    generator = torch.Generator().manual_seed(0)
    shapes = torch.tensor([[4, 5], [2, 3]])
    value, places, weights = (
        torch.rand(shape, dtype=torch.float64, generator=generator).requires_grad_()
        for shape in ((2, 26, 2, 3), (2, 7, 2, 2, 4, 2), (2, 7, 2, 2, 4))
    )
    output = MultiScaleDeformableAttnFunction.apply(value, shapes, torch.tensor([0, 20]), places, weights, 64)
    expected = multi_scale_deformable_attn_pytorch(value, shapes, places, weights)
    torch.testing.assert_close(output, expected)
    factors = torch.randn_like(output)
    for mine, wanted in zip(
        torch.autograd.grad(output, (value, places, weights), factors),
        torch.autograd.grad(expected, (value, places, weights), factors),
        strict=True,
    ):
        torch.testing.assert_close(mine, wanted)
