"""The table of operators against the operators themselves."""

import pytest
import torch

from mmkdprune.pruning.tracing.operators import ELEMENTWISE, is_zero_at_zero, keeps_channels

ops = torch.ops.aten


@pytest.mark.parametrize(
    ("func", "args", "expected"),
    [
        (ops.relu.default, (), True),
        (ops.hardtanh.default, (-1.0, 1.0), True),
        (ops.hardtanh.default, (0.1, 1.0), False),
        (ops.clamp.default, (None, 6.0), True),
        (ops.clamp.default, (1e-9,), False),
        (ops.clamp.Tensor, (torch.tensor(0.5), None), False),
        (ops.pow.Tensor_Scalar, (2,), True),
        (ops.pow.Tensor_Scalar, (0,), False),
        (ops.pow.Tensor_Scalar, (-1,), False),
        (ops.log.default, (), False),
        (ops.lt.Scalar, (0.5,), False),
        (ops.gt.Scalar, (0.5,), True),
        (ops.fill_.Scalar, (1.0,), False),
        (ops.nan_to_num.default, (), True),
    ],
)
def test_zero_at_zero(func, args, expected):
    tensor = torch.rand(2, 4, 3, 3) + 1
    before = tensor.clone()
    assert is_zero_at_zero(func, (tensor, *args), {}) is expected
    assert torch.equal(tensor, before)


@pytest.mark.parametrize("name", [name for name, sets in ELEMENTWISE.items() if sets and name != "copy"])
def test_products_and_sums_of_zeros(name):
    """Where the table says zero, the operator gives zero, whatever the other operands are."""
    func = getattr(ops, name)
    numbers = 3 if name in ("where", "masked_fill", "addcmul", "addcdiv", "lerp") else 2
    for positions in ELEMENTWISE[name]:
        operands = [torch.randn(50) for _ in range(numbers)]
        for position in positions:
            operands[position] = torch.zeros(50)
        if name in ("where", "masked_fill"):
            index = 0 if name == "where" else 1
            operands[index] = operands[index] > 0
        if name == "masked_fill":
            operands[2] = torch.tensor(0.0)
        if name in ("prelu", "_prelu_kernel"):
            operands[1] = operands[1][:1]
        assert not func(*operands).any(), (name, positions)


def test_an_unknown_operator_keeps_nothing():
    tensor = torch.zeros(2, 4, 3, 3)
    assert not keeps_channels(ops.cumsum.default, (tensor, 3), {}, 4, tensor)
    assert not keeps_channels(ops.clamp.Tensor, (tensor, torch.ones(4, 1, 1)), {}, 4, tensor)
