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


def without_autocast(values: Tensor) -> torch.autocast:
    """Return a context in which matrix products keep the type of their factors, for logarithms of sums to come.

    Args:
        values (Tensor): Any tensor; its device counts.

    Returns:
        torch.autocast: The context.
    """
    return torch.autocast(values.device.type, enabled=False)
