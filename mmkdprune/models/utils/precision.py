"""Numerical precision."""

import torch
from torch import Tensor


def upcast_half(values: Tensor) -> Tensor:
    """Return float16 and bfloat16 tensors as float32, everything else unchanged (float64 is never downcast).

    Args:
        values (Tensor): Any shape.

    Returns:
        Tensor: Same shape.
    """
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
