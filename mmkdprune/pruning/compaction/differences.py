"""Difference of two outputs of networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def difference(expected: Any, found: Any, floor: float = 0.0) -> float:
    """Largest difference of two outputs, relative to the largest value; infinite if they cannot be compared.

    Args:
        expected: A tensor or a plain value.
        found: Likewise.
        floor: Differences are relative to at least this.
    """
    if not isinstance(expected, Tensor):
        if isinstance(expected, (float, complex)) and isinstance(found, (float, complex)):
            expected, found = torch.tensor(expected), torch.tensor(found)
        else:
            return 0.0 if type(expected) is type(found) and expected == found else float("inf")
    if not isinstance(found, Tensor) or expected.shape != found.shape or expected.dtype != found.dtype:
        return float("inf")
    first, second = comparable(expected), comparable(found)
    if not first.numel():
        return 0.0
    if not expected.is_floating_point() and not expected.is_complex():
        return 0.0 if torch.equal(first, second) else float("inf")
    finite = first.isfinite()
    if not torch.equal(finite, second.isfinite()) or not torch.equal(_infinities(first), _infinities(second)):
        return float("inf")
    first, second = first[finite], second[finite]
    if not first.numel():
        return 0.0
    largest = float((first - second).abs().max())
    return largest / max(float(first.abs().max()), floor) if largest else 0.0


def comparable(value: Tensor) -> Tensor:
    """Plain numbers on the CPU."""
    value = value.detach()
    if value.is_quantized:
        value = value.dequantize()
    value = value.to_dense() if value.layout != torch.strided else value
    value = torch.view_as_real(value.resolve_conj()) if value.is_complex() else value
    return (value.double() if value.is_floating_point() else value).cpu()


def _infinities(value: Tensor) -> Tensor:
    return torch.where(value.isinf(), value.sign(), torch.zeros_like(value)).nan_to_num(0.0)
