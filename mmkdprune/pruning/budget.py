"""From what a network may cost to the pruning rates that leave so much of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmkdprune.arguments import checked

from .budget_search import TOLERANCE, CountSearch, search_latency
from .checks import check_choice, check_count, check_number
from .compact_costs import CompactCosts, Cost, costs_of, images_to_count
from .filter_pruner import FilterPruner
from .global_ranking import CostLimit
from .latency import Latency, Timer, deployed_seconds, measure_latency

__all__ = ["Budget", "CompactCosts", "Cost", "check_target", "keep_to_target", "solve_budget"]

QUANTITIES = ("macs", "params", "latency")
# Widths are multiples of this unless a budget says otherwise: kernels work on so many channels at once.
ROUND_TO = 8
# Images that are timed at once unless a target says otherwise.
BATCH_SIZE = 32
_BATCH = "batch_size"


@dataclass
class Budget:
    """Rates that meet a target, and what they leave.

    Attributes:
        rate: Share of all filters that is removed.
        rates: Share that is removed by layer, of all layers of every unit.
        kept: Number of filters before and after, by unit.
        before: Of the pruned part as it is.
        after: Of its compact form.
        part: Name of the pruned part; empty for the whole model.
        target: What was asked for.
        latency: What was measured, for a target of latency.
        images: Shape (B, C, H, W) of the images that were timed.
        device: Where they were.
    """

    rate: float
    rates: dict[str, float]
    kept: dict[str, tuple[int, int]]
    before: Cost
    after: Cost
    part: str
    target: dict[str, float] = field(default_factory=dict)
    latency: Latency | None = None
    images: tuple[int, ...] = ()
    device: str = ""

    @property
    def rate_map(self) -> dict[str, float]:
        """``rates`` as the argument of a pruner."""
        prefix = rf"({re.escape(self.part)}\.)?" if self.part else ""
        return {rf"^{prefix}{re.escape(name)}$": rate for name, rate in self.rates.items()}

    def line(self) -> str:
        """One line for a log."""
        parts = [
            f"{number / scale:.4g} {unit} of {name} ({number / whole:.1%} of {whole / scale:.4g} {unit})"
            for name, number, whole, scale, unit in (
                ("multiply-accumulates", self.after.macs, self.before.macs, *_scale(self.before.macs)),
                ("parameters", self.after.params, self.before.params, *_scale(self.before.params)),
            )
        ]
        text = f"{self.part or 'the model'}, compact, will have {' and '.join(parts)}"
        if (found := self.latency) is not None:
            number, *shape = self.images
            text += (
                f" and take {found.after * 1e3:.4g} ms for {number} images of {' x '.join(map(str, shape))} on "
                f"{self.device} ({found.share:.1%} of {found.before * 1e3:.4g} ms, measured with a spread of "
                f"{found.spread:.1%})"
            )
        return f"{text}; {self.rate:.1%} of filters go"

    @classmethod
    def of(cls, costs: CompactCosts, masked: np.ndarray, target: Mapping[str, float], **measured: Any) -> Budget:
        """The budget of so many masked filters of every unit.

        Args:
            costs (CompactCosts): Of the network.
            masked (np.ndarray): Number of masked filters of every unit, (U,).
            target (Mapping[str, float]): What was asked for.
            **measured (Any): ``latency``, ``images`` and ``device``, of a target of latency.
        """
        numbers = list(zip(costs.units, masked.tolist(), strict=True))
        return cls(
            rate=int(masked.sum()) / sum(unit.size for unit in costs.units),
            rates={name: number / unit.size for unit, number in numbers for name in unit.members},
            kept={unit.name: (unit.size, unit.size - number) for unit, number in numbers},
            before=costs.before,
            after=costs.of(masked),
            part=costs.part,
            target=dict(target),
            **measured,
        )

    def state_dict(self) -> dict[str, Any]:
        """All of it in plain types, for a checkpoint."""
        plain = {name: getattr(self, name) for name in ("rate", "rates", "part", "target", "device")}
        costs = {name: [float(number) for number in getattr(self, name)] for name in ("before", "after")}
        numbers = {**costs, "images": list(self.images)}
        kept = {name: list(pair) for name, pair in self.kept.items()}
        return {**plain, **numbers, "kept": kept, "latency": None if self.latency is None else list(self.latency)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Budget:
        """The budget that :meth:`state_dict` was of.

        Args:
            state (Mapping): Of a checkpoint.

        Raises:
            ValueError: If it is something else.
        """
        try:
            return cls(
                rate=float(state["rate"]),
                rates=dict(state["rates"]),
                kept={name: (int(before), int(after)) for name, (before, after) in state["kept"].items()},
                before=Cost(*state["before"]),
                after=Cost(*state["after"]),
                part=str(state["part"]),
                target=dict(state["target"]),
                latency=None if state["latency"] is None else Latency(*state["latency"]),
                images=tuple(state["images"]),
                device=str(state["device"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"the budget in the checkpoint is not what Budget.state_dict returns ({error!r})"
            ) from None


@checked
def solve_budget(
    model: nn.Module,
    target: Mapping[str, float],
    round_to: int = ROUND_TO,
    min_keep: int = 1,
    example_input: Tensor | Sequence[int] | None = None,
    timer: Timer = deployed_seconds,
    **selection: Any,
) -> Budget:
    """Find pruning rates with which the compact network meets a target.

    One rate for all layers, as in the papers, whose widths are multiples of ``round_to``; where these steps are too
    coarse, single layers get one step more or less. What goes with a filter is followed through one forward pass, so
    that BatchNorms, depthwise convolutions and readers of several layers count as they do in the compact network.

    A latency is measured here and now, on the model's device: the dense network and compact ones of a few rates (found
    by bisection) are timed in turns.

    Args:
        model (nn.Module): The dense model; unchanged.
        target (Mapping[str, float]): ``dict(macs=0.5)``, ``dict(params=0.5)`` or ``dict(latency=0.5, batch_size=32)``:
            the share in (0, 1] of the pruned part that is to be left; the batch size, 32 by default, is that of the
            measurement.
        round_to (int): Numbers of filters that stay are multiples of this. Defaults to 8.
        min_keep (int): Fewest filters of a layer. Defaults to 1.
        example_input (Tensor | Sequence[int], optional): Images (B, C, H, W), or their shape (C, H, W) or (B, C, H, W),
            of which the operations are counted and the time is taken. Defaults to zeros of a usual size.
        timer (Callable): ``timer(network, images)``: the seconds that a network takes for a batch.
        **selection (Any): ``scope, include, exclude, prune_first, prune_last, prune_outputs`` of :class:`FilterPruner`.

    Returns:
        Budget: Rates, and what they leave.

    Raises:
        ValueError: If the target is no single share in (0, 1], cannot be reached, or not within 2 % (of a latency: or
            the spread of the measurement); the message names the smallest share that is left, or the nearest one. If
            the measured latency spreads by more than 20 %.
    """
    quantity, share = check_target(target)
    costs = costs_of(model, round_to, min_keep, example_input, **selection)
    if quantity != "latency":
        return one_rate(costs, target)
    images = costs.images.repeat(int(target.get(_BATCH, BATCH_SIZE)), 1, 1, 1)

    def measure(masked: np.ndarray) -> Latency:
        return measure_latency(costs.network, costs.network_with(masked), images, timer)

    masked, latency = search_latency(costs, share, measure)
    measured = {"latency": latency, "images": tuple(images.shape), "device": _device_name(images)}
    return Budget.of(costs, masked, target, **measured)


def one_rate(costs: CompactCosts, target: Mapping[str, float]) -> Budget:
    """The budget with one rate for all layers, but for single layers that get one step more or less.

    Args:
        costs (CompactCosts): Of the network.
        target (Mapping[str, float]): ``dict(macs=0.5)`` or ``dict(params=0.5)``.

    Raises:
        ValueError: As for :func:`solve_budget`.
    """
    return Budget.of(costs, CountSearch(costs, *check_target(target)).solve(), target)


@checked
def keep_to_target(
    pruner: FilterPruner,
    model: nn.Module,
    target: Mapping[str, float],
    example_input: Tensor | Sequence[int] | None = None,
) -> None:
    """Let a pruner with ``ranking='global'`` mask as many filters as meet a target, whichever they are.

    How much a filter costs depends on its layer. So the number of filters is found anew at every prune step, at which
    the schedules take as much of it as they take of the rate.

    Args:
        pruner (FilterPruner): With ``coupling='group'``; its ``rate`` sets the scale of the schedules alone.
        model (nn.Module): The model that it prunes.
        target (Mapping[str, float]): ``dict(macs=0.5)`` or ``dict(params=0.5)``.
        example_input (Tensor | Sequence[int], optional): As for :func:`solve_budget`.

    Raises:
        ValueError: If the target is no single share of these, or the pruner ranks layer by layer.
    """
    quantity, share = check_target(target)
    if pruner.ranking != "global" or pruner.selection.coupling != "group":
        raise ValueError("keep_to_target needs a pruner with ranking='global' and coupling='group'")
    check_global_target(target)
    costs = CompactCosts(pruner, images_to_count(pruner, model, example_input), pruner.round_to)
    pruner.limit = CostLimit(CountSearch(costs, quantity, share).left, share, TOLERANCE)


def check_target(target: Any) -> tuple[str, float]:
    """Return quantity and share of a target.

    Args:
        target (Any): As for :func:`solve_budget`.

    Raises:
        ValueError: It is not one share in (0, 1] of a known quantity, or its batch size is not a whole number.
    """
    shares = {name: value for name, value in target.items() if name != _BATCH} if isinstance(target, Mapping) else {}
    if len(shares) != 1:
        raise ValueError(f"target takes one of {', '.join(QUANTITIES)}, such as dict(macs=0.5), got {target!r}")
    ((quantity, share),) = shares.items()
    check_choice("target", quantity, QUANTITIES)
    check_number(f"target.{quantity}", share, 0, 1, open_low=True)
    if _BATCH in target:
        if quantity != "latency":
            raise ValueError(
                f"target.{_BATCH} is for a target of latency; {quantity} do not depend on it: leave it out"
            )
        check_count(f"target.{_BATCH}", target[_BATCH], 1)
    return quantity, float(share)


def check_global_target(target: Mapping[str, float]) -> None:
    """Refuse a target that a ranking of all filters together cannot keep to.

    Args:
        target (Mapping): That :func:`check_target` has let through.

    Raises:
        ValueError: For a latency, which depends on the widths that only training decides.
    """
    if check_target(target)[0] == "latency":
        raise ValueError(
            "target.latency is measured before training, but with ranking='global' training decides on the widths: "
            "take ranking='layer', or a target of macs"
        )


def _device_name(images: Tensor) -> str:
    """The device, and what of it is used."""
    if images.device.type == "cuda":
        return torch.cuda.get_device_name(images.device)
    if images.device.type == "cpu":
        threads = torch.get_num_threads()
        return f"the CPU with {threads} thread{'s' if threads > 1 else ''}"
    return str(images.device)


def _scale(number: float) -> tuple[float, str]:
    return next(((scale, unit) for scale, unit in ((1e9, "G"), (1e6, "M")) if number >= scale), (1e3, "k"))
