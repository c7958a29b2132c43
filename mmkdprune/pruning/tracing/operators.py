"""Table of PyTorch's operators: what each of them does to channels and to zeros.

An operator that is not in the table is not followed: it keeps neither channels nor zeros. Names are those of the
dispatcher, without the underscore of their in-place forms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

# Operators that compute each element from the elements at the same place. Of one operand: whether 0 stays 0 is found
# out by calling the operator on 0 with the same settings (`is_zero_at_zero`). Of several: the result is zero wherever
# all operands of one of the listed sets are zero.
_ONE: tuple[tuple[int, ...], ...] = ()
ELEMENTWISE: dict[str, tuple[tuple[int, ...], ...]] = dict.fromkeys(
    (
        *("relu", "relu6", "hardtanh", "leaky_relu", "silu", "gelu", "elu", "celu", "selu", "hardswish", "mish"),
        *("tanh", "neg", "abs", "sqrt", "square", "sign", "sgn", "sin", "tan", "asin", "atan", "sinh", "asinh", "erf"),
        *("expm1", "log1p", "round", "floor", "ceil", "trunc", "frac", "softshrink", "hardshrink", "threshold"),
        *("sigmoid", "hardsigmoid", "softplus", "exp", "exp2", "cos", "cosh", "log_sigmoid_forward", "rsqrt"),
        *("reciprocal", "log", "log2", "log10", "erfc", "isnan", "isfinite", "logical_not", "nan_to_num"),
        *("clamp", "clamp_min", "clamp_max", "pow", "rsub", "eq", "ne", "lt", "le", "gt", "ge"),
        *("clone", "contiguous", "detach", "alias", "lift_fresh", "_to_copy", "fill", "zero"),
    ),
    _ONE,
)
ELEMENTWISE |= {
    "add": ((0, 1),),
    "sub": ((0, 1),),
    "mul": ((0,), (1,)),
    "div": ((0,),),
    "maximum": ((0, 1),),
    "minimum": ((0, 1),),
    "prelu": ((0,),),
    "_prelu_kernel": ((0,),),
    "where": ((1, 2),),
    "masked_fill": ((0, 2),),
    "addcmul": ((0, 1), (0, 2)),
    "addcdiv": ((0, 1),),
    "lerp": ((0, 1),),
    "copy": ((1,),),
}
# Of the channels, dimension 1, each alone; a channel of zeros stays one.
POOLS = {"max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d", "max_pool2d"}
POOLS |= {"upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_nearest_exact2d"}
POOLS |= {"reflection_pad2d", "replication_pad2d"}
DROPOUTS = {"dropout", "native_dropout"}
BATCH_NORMS = {"native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "_batch_norm_no_update"}
BATCH_NORMS |= {"_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "_batch_norm_with_update"}
GROUP_NORMS = {"native_group_norm": "GroupNorm", "native_layer_norm": "LayerNorm", "_fused_rms_norm": "RMSNorm"}
VIEWS = {"view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten"}
# Operators that move elements and change none.
REGROUPINGS = VIEWS | {"permute", "transpose", "t", "expand", "slice", "select", "narrow", "squeeze", "unsqueeze"}
REGROUPINGS |= {"flip", "index_select", "roll"}
SPLITS = {"split", "split_with_sizes", "chunk"}
REDUCTIONS = {"mean", "sum", "amax", "amin"}
LINEAR = {"addmm", "mm", "bmm", "baddbmm", "linear", "matmul", "mv", "addmv"}
# Operators that read shape, type and device of a tensor, not its elements; the first ones have the same shape.
SAME_SHAPE = {"zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like"}
NEW = {"new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided"}
# Operators that draw random numbers: of another shape they draw other ones.
RANDOM = {"bernoulli", "native_dropout", "rand_like", "randn_like", "randint_like", "normal", "uniform", "random"}
RANDOM |= {"exponential", "rand", "randn", "randint", "randperm", "rrelu_with_noise", "multinomial", "poisson"}
# Operators whose whole numbers are sizes and places, which may differ between a network and its compact form. In all
# others a number that differs tells of code that counts channels.
SIZED = REGROUPINGS | SAME_SHAPE | NEW | {"convolution", "empty", "zeros", "ones", "full", "arange", "rand", "randn"}
SIZED |= SPLITS | {"repeat", "as_strided", "empty_strided", "linspace", "eye", "unbind"}
SIZED |= {"randint", "scalar_tensor", "constant_pad_nd", "randperm", "unfold"}


def base_name(func: Any) -> str:
    """Name of an operator, without namespace and the underscore of an in-place form."""
    name: str = func._schema.name.split("::")[1]
    return name.rstrip("_") if name.endswith("_") else name


def is_zero_at_zero(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], position: int = 0) -> bool:
    """Whether an elementwise operator maps 0 to 0, by trying it.

    Args:
        func: The operator.
        args: Its arguments, of which one tensor may be zero.
        kwargs: Likewise.
        position: Index of that tensor; all others are taken as they are.
    """
    tensor = args[position]
    probe = tensor.new_zeros((1,) * tensor.ndim)
    others = [
        value.clone() if torch.is_tensor(value) and value.numel() == 1 else value for value in args[position + 1 :]
    ]
    try:
        result = func(*args[:position], probe, *others, **kwargs)
    except (RuntimeError, NotImplementedError, TypeError):
        return False  # it cannot be tried on one element: no zero is known
    result = result[0] if isinstance(result, (tuple, list)) else result
    return not bool(result.any()) and not bool(result.isnan().any())


def keeps_channels(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], channels: int, out: Any) -> bool:
    """Whether an operator's output has the channels of its first argument, and zeros where that has zeros.

    Args:
        func: The operator.
        args: Its arguments.
        kwargs: Likewise.
        channels: Number of channels, dimension 1 of the first argument.
        out: Its result.
    """
    name = base_name(func)
    if name in POOLS or name in DROPOUTS or name in ("prelu", "_prelu_kernel"):
        return True
    if name in ELEMENTWISE:
        return keeps_elements(name, args, channels) and is_zero_at_zero(func, args, kwargs)
    if name in ("mean", "sum", "amax"):
        ndim = args[0].ndim
        return len(args) > 1 and all(dim % ndim >= 2 for dim in args[1] or [1])
    if name == "constant_pad_nd":
        spatial = args[1][: 2 * (args[0].ndim - 2)]
        return len(spatial) == len(args[1]) and not any(args[2:])
    if name == "slice":
        return out.shape[1] == channels
    if name in ("select", "index_select", "narrow", "squeeze", "unsqueeze", "flip", "roll"):
        dims = args[1] if len(args) > 1 else kwargs.get("dim", 0)
        dims = [dims] if isinstance(dims, int) else dims
        return all(dim % args[0].ndim >= 2 for dim in dims)
    if name in ("view", "_unsafe_view", "reshape", "expand", "flatten"):
        return out.ndim >= 2 and out.shape[1] == channels and out.shape[0] == args[0].shape[0]
    return False


def keeps_elements(name: str, args: Sequence[Any], channels: int) -> bool:
    """Whether an elementwise operator's further operands have no channels of their own."""
    return name in ELEMENTWISE and all(
        not torch.is_tensor(value) or value.numel() == 1 or value.numel() % channels != 0 for value in args[1:]
    )
