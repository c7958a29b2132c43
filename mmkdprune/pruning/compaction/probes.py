"""Passes in which a compact network is compared with the pruned one: their images, modes and random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..tracing.steps import Step
from .attributes import Widths

_DROPOUTS = (nn.modules.dropout._DropoutNd,)
# Height and width from which on passes on the whole image are few: half of it leaves a network of stride 32 two rows.
_LARGE = 128


@dataclass
class Probe:
    """One forward pass of the pruned network.

    Attributes:
        images: Its input, (1 or 2, C, H, W).
        training: Whether in training mode (without dropout).
        scale: Factor on the random images; 0 for images that were given.
        steps: All operators.
        outputs: All tensors and numbers that came out.
        widths: Number of channels that went into each composed module and came out, in this pass or in one before it.
    """

    images: Tensor
    training: bool = False
    scale: float = 1.0
    steps: list[Step] = field(default_factory=list)
    outputs: list[tuple[str, Any]] = field(default_factory=list)
    widths: Widths = field(default_factory=Widths)

    @property
    def size(self) -> list[int]:
        """Height and width."""
        return list(self.images.shape[2:])

    def describe(self) -> str:
        """The probe in words."""
        mode = "in training mode" if self.training else f"images scaled by {self.scale:g}"
        return f"{'x'.join(map(str, self.size))} px, {mode}"


def modes_of(network: nn.Module, training: bool) -> dict[nn.Module, bool]:
    """Mode of every module; dropout would draw other numbers for another number of channels."""
    return {module: training and not isinstance(module, _DROPOUTS) for module in network.modules()}


@contextmanager
def seeded(images: Tensor) -> Iterator[None]:
    """The same random numbers in every pass, and none taken from the caller."""
    with torch.random.fork_rng(devices=[images.device] if images.device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


def is_large(images: Tensor) -> bool:
    """Whether a pass on images of this size is most of what a comparison costs."""
    return min(images.shape[2:]) >= _LARGE


def other_sizes(images: Tensor) -> list[tuple[int, int]]:
    """Sizes to be tried in turn as the second: about three and five quarters of the given one, and twice.

    Of large images half comes first: passes cost by the pixel, and small images meet the same operators.
    """
    height, width = images.shape[2:]

    def scaled(size: int, quarters: int) -> int:
        step = 32 if size >= 64 else 4
        return max(size * quarters // 4 // step * step, step)

    return list(
        dict.fromkeys(
            (scaled(height, quarters), scaled(width, quarters))
            for quarters in ((2,) if is_large(images) else ()) + (3, 5, 8)
        )
    )


def random_images(images: Tensor, size: tuple[int, int], scale: float, dtype: torch.dtype, number: int = 2) -> Tensor:
    """Images of noise, (number, C, *size), on the device of ``images``."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((number, images.shape[1], *size), generator=generator, dtype=torch.float64)
    return (noise * scale).to(images.device, dtype)
