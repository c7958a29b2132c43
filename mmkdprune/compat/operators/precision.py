"""The types in which the operators compute."""

import torch
from torch import Tensor

HALF_TYPES = (torch.float16, torch.bfloat16)


def full(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors in one type of at least single precision: the widest among them.

    Half types are too coarse for coordinates in pixels and for logarithms, and torchvision's kernels for a CPU lack
    them.

    Args:
        tensors (Tensor): Floating-point tensors.
    """
    dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
    return tuple(tensor.to(dtype) for tensor in tensors)
