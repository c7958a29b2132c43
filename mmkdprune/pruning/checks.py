"""Checks of arguments, with messages that name the field, the value and what would do."""

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mmkdprune.arguments import check_choice, check_count, check_number

__all__ = [
    "check_choice",
    "check_count",
    "check_number",
    "check_optimizers",
    "check_patterns",
    "make_images",
    "running_on",
]


def check_optimizers(field: str, value: Optimizer | Iterable[Optimizer] | None) -> list[Optimizer]:
    """Return no, one or several optimizers as a list; raise ``ValueError`` if it is something else."""
    optimizers = [value] if isinstance(value, Optimizer) else list(value or ())
    if not all(isinstance(one, Optimizer) for one in optimizers):
        raise ValueError(f"{field} must be an Optimizer, or several, got {optimizers!r}")
    return optimizers


def check_patterns(field: str, value: Any) -> tuple[str, ...]:
    """Return one or several regular expressions as a tuple; raise ``ValueError`` if one cannot be compiled."""
    if value is not None and not isinstance(value, str | list | tuple):
        raise ValueError(f"{field} takes regular expressions (a str or a list of str), got {value!r}")
    patterns = () if value is None else (value,) if isinstance(value, str) else tuple(value)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise ValueError(f"{field} takes regular expressions (a str or a list of str), got {pattern!r}")
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{field}: {pattern!r} is no regular expression ({error})") from None
    return patterns


def make_images(field: str, value: Tensor | Sequence[int], network: nn.Module) -> Tensor:
    """Return a batch of images for a network: the given one, or zeros of the given shape.

    Args:
        field (str): Name of the argument.
        value (Tensor | Sequence[int]): (B, C, H, W), or the shape (C, H, W) or (B, C, H, W).
        network (nn.Module): Whose device and number type the images get.

    Raises:
        ValueError: If that is not a batch of images, or the network has no parameters.
    """
    parameter = next(network.parameters(), None)
    if parameter is None:
        raise ValueError(f"model: this {type(network).__name__} has no parameters")
    shape = tuple(value.shape if isinstance(value, Tensor) else value)
    allowed = (4,) if isinstance(value, Tensor) else (3, 4)
    if len(shape) not in allowed or not all(isinstance(size, int) and size > 0 for size in shape):
        kind = f"a tensor of shape {shape}" if isinstance(value, Tensor) else repr(value)
        raise ValueError(
            f"{field} must be images (B, C, H, W), or their shape (C, H, W) or (B, C, H, W) in whole numbers of 1 or "
            f"more, got {kind}"
        )
    if isinstance(value, Tensor):
        return value.to(parameter.device, parameter.dtype)
    return torch.zeros(shape if len(shape) == 4 else (1, *shape), device=parameter.device, dtype=parameter.dtype)


@contextlib.contextmanager
def running_on(field: str, images: Any) -> Iterator[None]:
    """Name the argument when a network does not read images of its number of channels."""
    try:
        yield
    except RuntimeError as error:
        if "channels, but got" not in str(error):
            raise
        shape = tuple(images.shape if isinstance(images, Tensor) else images)
        raise ValueError(f"{field}={shape} is not what the network reads: {error}") from error
