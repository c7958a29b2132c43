"""Compare a compact network with the pruned one that it was made of."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .channel_flow import follow_channels
from .differences import comparable, difference
from .flow_record import FlowRecord
from .forward import Forward
from .leaves import UnknownOutputError, leaves
from .lockstep import Fault, Lockstep, Step
from .modes import set_modes
from .removal import CompactionError
from .surgery import deep_copy
from .widths import observed_widths

# Largest relative difference that passes, by the precision of the comparison.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 3e-2}
# Of single operators and in training mode, where statistics of a small batch magnify what rounding leaves. Single
# precision is not enough for that: there, only sizes and numbers are compared.
_STEP_TOLERANCES = {torch.float64: 1e-8}
_TRAINING_TOLERANCES = {torch.float64: 1e-5}
# Factors by which random images are scaled: networks saturate, or cross a threshold, at some scales only.
SCALES = (30.0, 0.03)
_DROPOUTS = (nn.modules.dropout._DropoutNd,)


@dataclass
class Probe:
    """One forward pass of the pruned network.

    Attributes:
        images: Its input, (2, C, H, W).
        training: Whether in training mode (without dropout).
        scale: Factor on the random images; 0 for images that were given.
        steps: All operators.
        outputs: All tensors and numbers that came out.
    """

    images: Tensor
    training: bool = False
    scale: float = 1.0
    steps: list[Step] = field(default_factory=list)
    outputs: list[tuple[str, Any]] = field(default_factory=list)

    @property
    def size(self) -> list[int]:
        """Height and width."""
        return list(self.images.shape[2:])

    def describe(self) -> str:
        """The probe in words."""
        mode = "in training mode" if self.training else f"images scaled by {self.scale:g}"
        return f"{'x'.join(map(str, self.size))} px, {mode}"


class Comparison:
    """Passes of the pruned network, beside which compact ones are run.

    They are made on random images of two sizes and of several scales and in training mode, in double precision where
    the network allows it. A size, or training mode, in which the pruned network fails is left out.

    Args:
        dense (nn.Module): The pruned network; unchanged.
        forward (Callable): ``forward(network, images)`` runs a network.
        images (Tensor): An example of the input, (B, C, H, W).
        check (bool): Whether to compare values. Otherwise one pass in each mode follows the channels, and compact
            networks are only run.

    Raises:
        CompactionError: If the network fails on the images, or gives nothing that could be compared.
    """

    def __init__(self, dense: nn.Module, forward: Forward, images: Tensor, check: bool) -> None:
        self._forward, self._check = forward, check
        self.largest = 0.0
        self.record, self.probes = FlowRecord(), list[Probe]()
        self.changed_widths: dict[str, tuple[int, int]] = {}
        self.dtype = images.dtype
        failure: Exception | None = None
        for dtype in self._precisions(images.dtype):
            try:
                self.dtype, self.record, self.probes = dtype, FlowRecord(), list[Probe]()
                with _converted(dense, dtype) as network, observed_widths(network) as self.widths:
                    first = Probe(_random_images(images, (images.shape[2], images.shape[3]), 1.0, dtype))
                    self._follow(network, first)
                    if dtype == torch.float64 != images.dtype and not _in_double(first):
                        continue  # it computes in single precision whatever it is given
                    self._follow_others(network, images, first)
                break
            except UnknownOutputError as error:
                raise CompactionError(f"{type(dense).__name__}: {error}") from error
            except (CompactionError, AssertionError):
                raise
            except Exception as error:
                failure = error
        else:
            raise CompactionError(
                f"{type(dense).__name__} fails on images of shape {tuple(images.shape)} ({type(failure).__name__}: "
                f"{failure}): give an example_input that it takes"
            ) from failure

    def _precisions(self, own: torch.dtype) -> list[torch.dtype]:
        if not self._check:
            return [own]
        # Half precision itself errs by more than a comparison should allow.
        half = [torch.float32] if own in (torch.float16, torch.bfloat16) else []
        return list(dict.fromkeys([torch.float64, *half, own]))

    def _follow(self, network: nn.Module, probe: Probe) -> None:
        modes = _modes(network, probe.training)
        set_modes(network, modes)
        with _seeded(probe.images):
            probe.steps, probe.outputs = follow_channels(
                network, self._forward, probe.images, self.record, values=self._check
            )
        if not probe.training:
            _refuse_nothing(probe, network)
        self.probes.append(probe)

    def _follow_others(self, network: nn.Module, images: Tensor, first: Probe) -> None:
        def attempt(probe: Probe) -> bool:
            saved = copy.copy(self.record)
            saved = FlowRecord(**{key: copy.copy(value) for key, value in vars(saved).items()})
            try:
                self._follow(network, probe)
            except (UnknownOutputError, AssertionError):
                raise
            except Exception:  # the network takes no images of this size, or cannot be trained on images alone
                self.record = saved
                return False
            return True

        height, width = first.size
        if self._check:
            large, tiny = SCALES
            for size in [*(size for size in _sizes(images) if size != (height, width)), (height, width)]:
                if attempt(Probe(_random_images(images, size, large, self.dtype), scale=large)):
                    break
            small = min(self.probes[-1].size, [height, width])
            attempt(Probe(_random_images(images, (small[0], small[1]), tiny, self.dtype), scale=tiny))
            if bool(images.any()):
                pair = images[:2] if len(images) > 1 else images.expand(2, *images.shape[1:])
                attempt(Probe(pair.to(self.dtype).contiguous(), scale=0.0))
        attempt(Probe(first.images, training=True))

    def sizes(self) -> list[list[int]]:
        """Heights and widths that were tried."""
        sizes: list[list[int]] = []
        for probe in self.probes:
            if probe.size not in sizes:
                sizes.append(probe.size)
        return sizes

    def fault(
        self, small: nn.Module, stays: Callable[[Tensor], Tensor], stepwise: bool = True, probes: int | None = None
    ) -> tuple[Probe, Fault] | None:
        """Run a compact network beside the pruned one.

        Args:
            small (nn.Module): The compact network; unchanged.
            stays (Callable): ``stays(labels) -> bool tensor``: which channels were kept.
            stepwise (bool): Compare every operator. Otherwise the outputs only.
            probes (int, optional): How many of the passes. Defaults to all.

        Returns:
            tuple[Probe, Fault] | None: The first pass that differs and where, or None. ``largest`` is then the largest
            relative difference of an output.
        """
        self.largest = self.largest if probes else 0.0
        endless = float("inf")
        tolerances = [TOLERANCES, _STEP_TOLERANCES, _TRAINING_TOLERANCES] if self._check else [{}, {}, {}]
        exact, stepwise_tolerance, training = (
            values.get(self.dtype, TOLERANCES[self.dtype] if values is _STEP_TOLERANCES else endless)
            for values in tolerances
        )
        with _converted(small, self.dtype) as network, observed_widths(network) as widths:
            for probe in self.probes[:probes]:
                set_modes(network, _modes(network, probe.training))
                tolerance = training if probe.training else exact
                step_tolerance = training if probe.training else stepwise_tolerance
                watch = Lockstep(probe.steps, stays, step_tolerance, lenient=probe.training)
                try:
                    with torch.no_grad(), _seeded(probe.images):
                        if stepwise:
                            with watch:
                                outputs = leaves(self._forward(network, probe.images))
                        else:
                            outputs = leaves(self._forward(network, probe.images))
                except Exception as error:
                    return probe, watch.failed(error)
                fault = watch.finish() if stepwise else None
                if fault is None and self._check and watch.values:
                    fault = self._compare_outputs(probe, outputs, tolerance, watch.scale)
                if fault is not None:
                    return probe, fault
        self.changed_widths = {
            name: (self.widths[name], width) for name, width in widths.items() if self.widths.get(name, width) != width
        }
        return None

    def _compare_outputs(
        self, probe: Probe, outputs: list[tuple[str, Any]], tolerance: float, scale: float
    ) -> Fault | None:
        end = len(probe.steps)
        if [path for path, _ in outputs] != [path for path, _ in probe.outputs]:
            return Fault(end, "without them the network returns something else")
        for (path, expected), (_, found) in zip(probe.outputs, outputs, strict=True):
            error = difference(expected, found, 1e-12 * scale)
            if not error <= tolerance:
                return Fault(
                    end, f"the compact network differs by {error:.2g} in {path} ({probe.describe()}), more than "
                    f"{tolerance:g}"
                )  # fmt: skip
            if not probe.training:
                self.largest = max(self.largest, error)
        return None


def _refuse_nothing(probe: Probe, network: nn.Module) -> None:
    """Refuse outputs that tell nothing."""
    kind = type(network).__name__
    tensors = [value for _, value in probe.outputs if isinstance(value, (Tensor, int, float, complex))]
    if not tensors:
        raise CompactionError(
            f"{kind} returns no tensor or number, so nothing can be compared: give forward, a function that returns "
            "what it computes"
        )
    floating = [value for value in tensors if isinstance(value, Tensor) and value.is_floating_point()]
    if probe.scale == 1.0 and floating and not any(bool(comparable(value).isfinite().any()) for value in floating):
        raise CompactionError(f"{kind} returns no finite number on random images, so nothing can be compared")


@contextmanager
def _converted(network: nn.Module, dtype: torch.dtype) -> Iterator[nn.Module]:
    """A copy of a network in another precision."""
    yield deep_copy(network).to(dtype)


@contextmanager
def _seeded(images: Tensor) -> Iterator[None]:
    """The same random numbers in every pass, and none taken from the caller."""
    with torch.random.fork_rng(devices=[images.device] if images.device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


def _modes(network: nn.Module, training: bool) -> dict[nn.Module, bool]:
    """Mode of every module; dropout would draw other numbers for another number of channels."""
    return {module: training and not isinstance(module, _DROPOUTS) for module in network.modules()}


def _in_double(probe: Probe) -> bool:
    floating = [value for _, value in probe.outputs if isinstance(value, Tensor) and value.is_floating_point()]
    return all(value.dtype == torch.float64 for value in floating)


def _sizes(images: Tensor) -> list[tuple[int, int]]:
    """Sizes to be tried in turn as the second: about three and five quarters of the given one, and twice."""
    height, width = images.shape[2:]

    def scaled(size: int, quarters: int) -> int:
        step = 32 if size >= 64 else 4
        return max(size * quarters // 4 // step * step, step)

    return list(dict.fromkeys((scaled(height, quarters), scaled(width, quarters)) for quarters in (3, 5, 8)))


def _random_images(images: Tensor, size: tuple[int, int], scale: float, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((2, images.shape[1], *size), generator=generator, dtype=torch.float64)
    return (noise * scale).to(images.device, dtype)
