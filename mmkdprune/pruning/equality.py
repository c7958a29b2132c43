"""Compare a compact network with the pruned one that it was made of."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .flow import flat
from .forward import Forward
from .plan import Plan
from .removal import CompactionError

TOLERANCE = 1e-5


def compare(
    dense: nn.Module, small: nn.Module, plan: Plan, images: Tensor, forward: Forward, tolerance: float = TOLERANCE
) -> dict[str, Any]:
    """Run both networks on random images of two sizes.

    Args:
        dense (nn.Module): The pruned network, in evaluation mode.
        small (nn.Module): The compact one, likewise.
        plan (Plan): What was kept, to name the first layer that differs.
        images (Tensor): An example of the input, (B, C, H, W); only its shape counts.
        forward (Callable): ``forward(network, images)`` runs a network.
        tolerance (float): Largest relative error that passes. Defaults to 1e-5.

    Returns:
        dict: ``sizes``: heights and widths that were tried (a network with a classifier inside takes only one);
        ``max_relative_error``: largest difference of an output, relative to the largest value of that output.

    Raises:
        CompactionError: If the error is larger than the tolerance; the message names the first layer that differs.
    """
    if images.dtype in (torch.float16, torch.bfloat16):
        # Half precision itself errs by more than the tolerance.
        dense, small, images = copy.deepcopy(dense).float(), copy.deepcopy(small).float(), images.float()
    sizes: list[list[int]] = []
    error = 0.0
    for size in _sizes(images):
        probe = _random_images(images, size)
        try:
            expected = _outputs(dense, forward, probe)
        except Exception:
            if not sizes:
                raise
            continue  # the network takes no images of this size
        found = _outputs(small, forward, probe)
        one = _relative_error(expected, found)
        if not one <= tolerance:
            layer = _first_difference(dense, small, plan, probe, forward, tolerance)
            raise CompactionError(
                f"the compact network differs by {one:.2g} (relative, at {size[0]}x{size[1]} px) where at most "
                f"{tolerance:g} is allowed; the first layer that differs is {layer}. Leave it out with exclude when "
                "pruning; docs/compaction.md tells which networks can be compacted"
            )
        error = max(error, one)
        sizes.append(list(size))
        if len(sizes) == 2:
            break
    return {"sizes": sizes, "max_relative_error": error}


@contextmanager
def observed_widths(network: nn.Module) -> Iterator[dict[str, int]]:
    """Note, while the network runs, how many channels come out of its composed modules (their last output)."""
    widths: dict[str, int] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            last = next((value for value in reversed(flat(output)) if isinstance(value, Tensor)), None)
            if last is not None and last.ndim in (2, 4):
                widths[name] = last.shape[1]

        return hook

    composed = [(name, module) for name, module in network.named_modules() if list(module.children())]
    handles = [module.register_forward_hook(note(name)) for name, module in composed]
    try:
        yield widths
    finally:
        for handle in handles:
            handle.remove()


def _sizes(images: Tensor) -> list[tuple[int, int]]:
    """The given size, and to be tried in turn as the second: about three and five quarters of it, and twice."""
    height, width = images.shape[2:]

    def scaled(size: int, quarters: int) -> int:
        step = 32 if size >= 64 else 4
        return max(size * quarters // 4 // step * step, step)

    sizes = [(height, width), *((scaled(height, quarters), scaled(width, quarters)) for quarters in (3, 5, 8))]
    return list(dict.fromkeys(sizes))


def _random_images(images: Tensor, size: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((min(len(images), 2), images.shape[1], *size), generator=generator, dtype=torch.float64)
    return noise.to(images.device, images.dtype)


def _outputs(network: nn.Module, forward: Forward, images: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [value for value in flat(forward(network, images)) if isinstance(value, Tensor)]


def _relative_error(expected: list[Tensor], found: list[Tensor]) -> float:
    if [value.shape for value in expected] != [value.shape for value in found]:
        return float("inf")
    errors = [0.0]
    for one, other in zip(expected, found, strict=True):
        scale = one.abs().max()
        difference = (one - other).abs().max()
        errors.append(float(difference / scale) if scale > 0 else float(difference))
    return float("nan") if any(error != error for error in errors) else max(errors)


def _first_difference(
    dense: nn.Module, small: nn.Module, plan: Plan, images: Tensor, forward: Forward, tolerance: float
) -> str:
    """Name of the first layer whose kept channels differ."""
    first, second = (_layer_outputs(network, forward, images) for network in (dense, small))
    for name, expected in first.items():
        kept = None if "scatter" in plan.layers.get(name, {}) else plan.kept(name)
        found = second.get(name)
        if kept is not None and expected.ndim == 4:
            expected = expected[:, kept]
        if found is None or not _relative_error([expected], [found]) <= tolerance:
            return name
    return "none of its layers: they are called in another way"


def _layer_outputs(network: nn.Module, forward: Forward, images: Tensor) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                outputs.setdefault(name, output.clone())

        return hook

    leaves = [(name, module) for name, module in network.named_modules() if not list(module.children())]
    handles = [module.register_forward_hook(note(name)) for name, module in leaves]
    try:
        _outputs(network, forward, images)
    finally:
        for handle in handles:
            handle.remove()
    return outputs
