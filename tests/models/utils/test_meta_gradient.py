import pytest
import torch

from mmkdprune.models.utils import meta_gradient


def toy():
    """Two parameters, a hyperparameter that scales one's square, and the objectives of the published check."""
    guide = torch.full((2, 2), 0.1, dtype=torch.float64, requires_grad=True)
    start = [
        torch.tensor([1.0, 3.0], dtype=torch.float64),
        torch.tensor([[-1.0, -2.0], [1.0, 0.0]], dtype=torch.float64),
    ]

    def inner(values, guide=guide):
        first, second = values
        return (first**2).mean() + (guide * second**2).sum() + (first * second.sum(0)).sum()

    def outer(values, guide=None):
        first, second = values
        return (first * second).mean() + (second**4).mean()

    return guide, start, inner, outer


def unrolled(objectives, outer, start, guide, lr, momentum, weight_decay):
    """The same through the graph of all steps at once."""
    values = [value.clone().requires_grad_() for value in start]
    velocity = [torch.zeros_like(value) for value in values]
    for objective in objectives:
        gradients = torch.autograd.grad(objective(values), values, create_graph=True)
        velocity = [momentum * v + g + weight_decay * x for v, g, x in zip(velocity, gradients, values, strict=True)]
        values = [x - lr * v for x, v in zip(values, velocity, strict=True)]
    return torch.autograd.grad(outer(values), guide)[0]


@pytest.mark.parametrize(
    ("weight_decay", "momentum", "expected"),
    [  # learning rate 0.1, two steps on the inner objective and one on the outer
        (0, 0, (-0.207974, 0.233049, -0.173516, 0.026408)),
        (0, 0.9, (-1.014566, 0.826412, -0.190564, -0.183171)),
        (5e-4, 0.9, (-1.013929, 0.826180, -0.190413, -0.183130)),
        (1e-2, 0.9, (-1.001879, 0.821604, -0.187566, -0.182350)),
    ],
)
def test_published_values(weight_decay, momentum, expected):
    guide, start, inner, outer = toy()
    (gradient,) = meta_gradient([inner, inner, outer], outer, start, [guide], 0.1, momentum, weight_decay)
    assert gradient.flatten().tolist() == pytest.approx(expected, abs=1e-6)
    reference = unrolled([inner, inner, outer], outer, start, guide, 0.1, momentum, weight_decay)
    torch.testing.assert_close(gradient, reference)


def test_equals_finite_differences():
    guide, start, inner, outer = toy()

    def reached(guide):
        values, velocity = start, [torch.zeros_like(value) for value in start]
        for _ in range(3):
            values = [value.detach().requires_grad_() for value in values]
            gradients = torch.autograd.grad(inner(values, guide), values)
            velocity = [0.9 * v + g + 0.01 * x for v, g, x in zip(velocity, gradients, values, strict=True)]
            values = [x - 0.05 * v for x, v in zip(values, velocity, strict=True)]
        return outer(values).item()

    (gradient,) = meta_gradient([inner] * 3, outer, start, [guide], 0.05, 0.9, 0.01)
    for index in range(4):
        shift = torch.zeros(4, dtype=torch.float64)
        shift[index] = 1e-5
        ends = [reached(guide.detach() + sign * shift.view(2, 2)) for sign in (1, -1)]
        assert gradient.flatten()[index].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5)


def test_starting_values_stay_and_what_does_not_depend_gets_zero():
    guide, start, _, outer = toy()
    before = [value.clone() for value in start]
    (gradient,) = meta_gradient([outer], outer, start, [guide], 0.1)
    assert torch.equal(gradient, torch.zeros(2, 2, dtype=torch.float64))
    assert all(torch.equal(a, b) and not a.requires_grad for a, b in zip(start, before, strict=True))
    (gradient,) = meta_gradient([], lambda values: (guide * values[1]).sum(), start, [guide], 0.1)
    assert torch.equal(gradient, start[1])
