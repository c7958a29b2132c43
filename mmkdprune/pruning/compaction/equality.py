"""Compare a compact network with the pruned one that it was made of."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..forward import Forward
from ..modes import set_modes
from ..tracing.channel_record import FlowRecord
from ..tracing.channels import follow_channels
from ..tracing.leaves import UnknownOutputError, leaves
from .attributes import Widths, changed_sizes, kept_sizes, sizes_of_layers
from .differences import comparable, difference
from .lockstep import Fault, Lockstep
from .plan import Plan
from .probes import Probe, is_large, modes_of, other_sizes, random_images, seeded
from .removal import CompactionError
from .replay import OtherStepsError, Replay
from .surgery import deep_copy, set_widths
from .widths import observed_widths

# Largest relative difference that passes, by the precision of the comparison.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 3e-2}
# Of single operators.
_STEP_TOLERANCES = {torch.float64: 1e-8}
# In training mode. BatchNorms on the statistics of two images magnify what rounding leaves, the more the deeper a
# network and the smaller its maps are; channels that are missing make a difference of the order of 1. Single precision
# is not enough for that: there, only sizes and numbers are compared.
_TRAINING_TOLERANCES = {torch.float64: 1e-3}
# Factors by which random images are scaled: networks saturate, or cross a threshold, at some scales only.
SCALES = (30.0, 0.03)
# Least height and width for training mode: on smaller ones few values are left to the last BatchNorms.
TRAINING_SIZE = 96


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
        self.kept_sizes, self.layer_sizes = kept_sizes(dense), sizes_of_layers(dense)
        self.largest = 0.0
        self.record, self.probes = FlowRecord(), list[Probe]()
        self.training_failure = ""
        self.dtype = images.dtype
        failure: Exception | None = None
        for dtype in self._precisions(images.dtype):
            try:
                self.dtype, self.record, self.probes = dtype, FlowRecord(), list[Probe]()
                with _converted(dense, dtype) as network, observed_widths(network) as self._widths:
                    # Of large images one will do: two follow at the second size.
                    number = 1 if is_large(images) else 2
                    size = (images.shape[2], images.shape[3])
                    first = Probe(random_images(images, size, 1.0, dtype, number))
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
        set_modes(network, modes_of(network, probe.training))
        if not self._replayed(network, probe):
            with seeded(probe.images):
                probe.steps, probe.outputs = follow_channels(
                    network, self._forward, probe.images, self.record, values=self._check
                )
        if not probe.training:
            refuse_nothing(probe, network)
        probe.widths = copy.deepcopy(self._widths)
        self.probes.append(probe)

    def _replayed(self, network: nn.Module, probe: Probe) -> bool:
        """Note the values of a pass alone, if it takes the steps of one that was followed before."""
        known = next((one for one in reversed(self.probes) if one.size == probe.size), next(iter(self.probes), None))
        if known is None or probe.training:  # BatchNorms count their batches then, an operator more
            return False
        buffers = [(value, value.clone()) for value in network.buffers()]
        owners = {
            id(value): name
            for name, module in network.named_modules()
            for value in (*module._parameters.values(), *module._buffers.values())
            if value is not None
        }
        replay = Replay(known.steps, owners)
        try:
            with torch.no_grad(), seeded(probe.images), replay:
                outputs = leaves(self._forward(network, probe.images))
            probe.steps = replay.finish()
            if [_form(*one) for one in outputs] != [_form(*one) for one in known.outputs]:
                raise OtherStepsError
        except OtherStepsError:
            with torch.no_grad():  # the pass that follows must find what this one found
                for value, before in buffers:
                    value.copy_(before)
            return False
        probe.outputs = outputs
        return True

    def _follow_others(self, network: nn.Module, images: Tensor, first: Probe) -> None:
        def attempt(probe: Probe) -> Exception | None:
            saved = FlowRecord(**{key: copy.copy(value) for key, value in vars(self.record).items()})
            try:
                self._follow(network, probe)
            except (UnknownOutputError, AssertionError):
                raise
            except Exception as error:  # it takes no images of this size, or cannot be trained on images alone
                self.record = saved
                return error
            return None

        height, width = first.size
        if self._check:
            large, tiny = SCALES
            number = 3 - len(first.images)
            for size in [*(size for size in other_sizes(images) if size != (height, width)), (height, width)]:
                if attempt(Probe(random_images(images, size, large, self.dtype, number), scale=large)) is None:
                    break
            small = min(self.probes[-1].size, [height, width])
            attempt(Probe(random_images(images, (small[0], small[1]), tiny, self.dtype, number=1), scale=tiny))
            if bool(images.any()):
                pair = images[:2] if len(images) > 1 else images.expand(2, *images.shape[1:])
                attempt(Probe(pair.to(self.dtype).contiguous(), scale=0.0))
        failure = attempt(Probe(self._training_images(images, first), training=True))
        self.training_failure = f"{type(failure).__name__}: {failure}" if failure is not None else ""

    def _training_images(self, images: Tensor, first: Probe) -> Tensor:
        """Two images, since BatchNorms need several values a channel; of large ones at the second size."""
        smallest = min((probe.size for probe in self.probes if not probe.training), key=math.prod)
        if not is_large(images) or min(smallest) < TRAINING_SIZE:
            smallest = first.size
        if smallest == first.size and len(first.images) > 1:
            return first.images
        return random_images(images, (smallest[0], smallest[1]), 1.0, self.dtype)

    def sizes(self) -> list[list[int]]:
        """Heights and widths that were tried."""
        sizes: list[list[int]] = []
        for probe in self.probes:
            if probe.size not in sizes:
                sizes.append(probe.size)
        return sizes

    def fault(
        self, small: nn.Module, stays: Callable[[Tensor], Tensor], plan: Plan | None = None
    ) -> tuple[Probe, Fault] | None:
        """Run a compact network beside the pruned one.

        Args:
            small (nn.Module): The compact network; unchanged.
            stays (Callable): ``stays(labels) -> bool tensor``: which channels were kept.
            plan (Plan, optional): Takes the widths that changed, of which modules are told before the comparison goes
                on; every operator is compared. Defaults to None: the outputs only.

        Returns:
            tuple[Probe, Fault] | None: The first pass that differs and where, or None. ``largest`` is then the largest
            relative difference of an output.
        """
        self.largest = 0.0
        told = False
        with _converted(small, self.dtype) as network, observed_widths(network) as widths:
            for probe in self.probes:
                if plan is None and probe.training:
                    continue  # how rounding grows there is only seen step by step
                if (fault := self._fault_in(network, probe, stays, stepwise=plan is not None)) is not None:
                    return probe, fault
                told = False
                if plan is not None and self._note_widths(plan, probe.widths, widths, network):
                    told = set_widths(network, plan)
        if plan is not None and told:  # by the last pass: once more with it
            network = deep_copy(small)
            set_widths(network, plan)
            with _converted(network, self.dtype) as network:
                if (fault := self._fault_in(network, self.probes[0], stays, stepwise=True)) is not None:
                    return self.probes[0], fault
        return None

    def _note_widths(self, plan: Plan, before: Widths, after: Widths, network: nn.Module) -> bool:
        """Put what a pass met at the borders of modules into the plan; returns whether that is news."""
        known = plan.widths, plan.attributes
        plan.widths = _changed(before.made, after.made)
        sizes = sizes_of_layers(network)
        plan.attributes = changed_sizes(self.kept_sizes, self.layer_sizes, sizes, (before, after))
        return (plan.widths, plan.attributes) != known

    def _fault_in(
        self, network: nn.Module, probe: Probe, stays: Callable[[Tensor], Tensor], stepwise: bool
    ) -> Fault | None:
        """Compare one pass."""
        exact, step_tolerance = self._tolerances(probe.training)
        set_modes(network, modes_of(network, probe.training))
        watch = Lockstep(probe.steps, stays, step_tolerance, lenient=probe.training)
        try:
            with torch.no_grad(), seeded(probe.images), watch if stepwise else nullcontext():
                outputs = leaves(self._forward(network, probe.images))
        except Exception as error:
            return watch.failed(error)
        fault = watch.finish() if stepwise else None
        if fault is None and self._check and watch.values:
            fault = self._compare_outputs(probe, outputs, watch.allowed(exact), watch.scale)
        return fault

    def _tolerances(self, training: bool) -> tuple[float, float]:
        """Of outputs and of single operators."""
        endless = float("inf")
        if not self._check:
            return endless, endless
        if training:
            return (_TRAINING_TOLERANCES.get(self.dtype, endless),) * 2
        return TOLERANCES[self.dtype], _STEP_TOLERANCES.get(self.dtype, TOLERANCES[self.dtype])

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


def _changed(before: dict[str, int], after: dict[str, int]) -> dict[str, tuple[int, int]]:
    return {name: (before[name], width) for name, width in after.items() if before.get(name, width) != width}


def _form(path: str, value: Any) -> tuple[Any, ...]:
    """Form of an output, whatever the number of images and their size."""
    return (path, value.ndim, value.shape[1:2]) if isinstance(value, Tensor) else (path, type(value))


def refuse_nothing(probe: Probe, network: nn.Module) -> None:
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


def _in_double(probe: Probe) -> bool:
    floating = [value for _, value in probe.outputs if isinstance(value, Tensor) and value.is_floating_point()]
    return all(value.dtype == torch.float64 for value in floating)
