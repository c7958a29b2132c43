"""What PyTorch's operators do to channels."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

# Operators (without the underscore of their in-place forms) after which the channels are the same ones.
UNARY = {"relu", "hardtanh", "leaky_relu", "silu", "gelu", "elu", "celu", "selu", "hardswish", "mish", "tanh", "neg"}
UNARY |= {"abs", "sqrt", "clone", "contiguous", "_to_copy", "detach", "alias", "lift_fresh", "copy", "softshrink"}
UNARY |= {"dropout", "native_dropout", "prelu", "_prelu_kernel", "hardshrink", "relu6", "sign", "sin"}
POOLS = {"max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d", "max_pool2d"}
POOLS |= {"upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_nearest_exact2d"}
SHIFTS = {"sigmoid", "hardsigmoid", "softplus", "exp", "cos", "log_sigmoid_forward", "rsqrt", "reciprocal"}
BATCH_NORMS = {"native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "_batch_norm_no_update"}
BATCH_NORMS |= {"_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "_batch_norm_with_update"}
GROUP_NORMS = {"native_group_norm": "GroupNorm", "native_layer_norm": "LayerNorm", "_fused_rms_norm": "RMSNorm"}
VIEWS = {"view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten"}
# What moves elements and changes none.
REGROUPINGS = VIEWS | {
    "permute",
    "transpose",
    "t",
    "expand",
    "slice",
    "select",
    "narrow",
    "squeeze",
    "unsqueeze",
    "flip",
}
REGROUPINGS |= {"index_select", "roll"}
REDUCTIONS = {"mean", "sum", "amax", "amin"}
LINEAR = {"addmm", "mm", "bmm", "baddbmm", "linear", "matmul", "mv", "addmv"}


def keeps_channels(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], channels: int, out: Tensor) -> bool:
    """Whether an operator's output has the channels of its first argument, and zeros where that has zeros.

    Args:
        name: Operator, without the underscore of its in-place form.
        args: Its arguments.
        kwargs: Likewise.
        channels: Number of channels, dimension 1 of the first argument.
        out: Its result.
    """
    if name in UNARY or name in POOLS:
        return True
    if name in ("clamp", "clamp_min"):
        low, high = (*args[1:], None, None)[:2]
        return (low is None or low <= 0) and (high is None or high >= 0)
    if name == "pow":
        return isinstance(args[1], (int, float)) and args[1] > 0
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
