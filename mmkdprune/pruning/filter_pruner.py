"""Pruning of whole filters."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmkdprune.arguments import checked

from .checks import check_choice, check_count, check_patterns, make_images, running_on
from .criteria import Context, get_criterion, rank, upcast
from .global_ranking import CostLimit, GlobalRanking, normalised
from .gradient_record import GradientRecord
from .pruner import Pruner
from .schedules.position import Position, ScheduleFunction, describe
from .selection import FilterGroup, Selection, select_groups
from .tracing.scope import trace_scope
from .units import Slot, Unit, first_masked, weight_of

COUPLINGS = ("independent", "group")
RANKINGS = ("layer", "global")


def masked_count(size: int, share: float, round_to: int) -> int:
    """Number of filters that are masked: floor(size * share), or fewer, so that what stays is a multiple.

    Args:
        size (int): Number of filters N.
        share (float): Pruning rate of the layer.
        round_to (int): What the number that stays is a multiple of.
    """
    number = math.floor(size * share + 1e-9)
    return max(0, size - math.ceil((size - number) / round_to) * round_to)


class FilterPruner(Pruner):
    """Prune filters of convolutions along three schedules; see :class:`Pruner` for what a step does.

    By default every ``Conv2d`` without groups is pruned at the same rate, projection shortcuts excepted (as in the SFP
    code). Depthwise convolutions take the mask of the layer that feeds them. Left alone are other grouped convolutions
    and layers that make no features for others: gates of other channels (the last one of squeeze-and-excitation),
    logits of a softmax, offsets and modulation of deformable convolutions, and outputs of the model, which are those
    that reach what it returns through no other convolution, linear layer or norm.

    Which BatchNorm belongs to a layer, and which layers are coupled, is learned from one forward pass of the pruned
    part on a small image of zeros; weights, statistics and random state are not touched.

    Args:
        model (nn.Module): The model; changed in place by every step.
        rate (float): Target pruning rate P, the share of filters to remove, in [0, 1).
        criterion (str | Callable): ``'l2'`` (default), ``'l1'``, ``'fpgm'``, ``'bn_scale'``, ``'taylor'`` (needs
            :meth:`attach_optimizer`), ``'random'``, or ``criterion(filters (N, D), context) -> scores (N,)``; the
            lowest scores are pruned first. See :mod:`mmkdprune.pruning.criteria`.
        rate_schedule, decay_schedule, hard_schedule, bn_policy, freeze, sticky, scope: See :class:`Pruner`.
        include (str | Sequence[str], optional): Regular expressions (``re.search`` on the layer's name within the
            scope, or with the scope's name in front); only matching layers are pruned.
        exclude (str | Sequence[str], optional): Likewise; matching layers are not pruned.
        rate_map (Mapping[str, float], optional): Target rates of the layers that match a regular expression, the first
            match counts. They are reached on the same curve: P(t) * P_layer / rate.
        coupling (str): ``'independent'`` (default): a mask for each layer, as in the papers. ``'group'``: one mask for
            all layers whose outputs meet in a sum, a product or a depthwise convolution, ranked by all their filters
            together; everything can be removed physically. Projection shortcuts are always members of their group,
            and a group with a member that is left out is not pruned.
        prune_first (bool): Prune the layers that read the image. Defaults to True.
        prune_last (bool): Prune the last convolution. Defaults to True.
        prune_downsample (bool): Prune projection shortcuts in ``independent`` coupling, too. Defaults to False.
        min_keep (int): Refuse rates that leave a layer fewer filters. Defaults to 1.
        round_to (int): Round the number of kept filters up to a multiple of this. Defaults to 1.
        example_input (Tensor | Sequence[int], optional): Image batch (B, C, H, W), or its shape (C, H, W) or
            (B, C, H, W), on which the scope or the model runs, if zeros of a usual size do not suit it.
        prune_outputs (bool): Prune layers whose output is an output of the model, too. Their masked filters become
            constants there: classes that are never found, say. Defaults to False.
        ranking (str): ``'layer'`` (default): the rate holds in every layer, as in the papers. ``'global'``: filters of
            all layers (groups, in ``group`` coupling) are ranked together, by scores as multiples of their layer's mean
            (:func:`~mmkdprune.pruning.global_ranking.normalised`), and the rate is that of all filters; ``min_keep``
            filters stay in every layer.

    Attributes:
        image_shape (tuple[int, ...] | None): (B, C, H, W) of what the pruned part was run on to follow its channels.
        limit (CostLimit | None): With ``ranking='global'``, what the network may cost when all is pruned, see
            :func:`~mmkdprune.pruning.budget.keep_to_target`; the rate then is only the scale of the schedules.
        skipped (dict[str, str]): Every convolution that is not pruned, with the reason.
        outputs (list[str]): Pruned layers whose output is an output of the model.

    Raises:
        ValueError: If an argument is out of range, a pattern matches nothing, a layer would be left with fewer than
            ``min_keep`` filters, or the schedules do not end where they must.
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        rate: float,
        criterion: Any = "l2",
        rate_schedule: ScheduleFunction | None = None,
        decay_schedule: ScheduleFunction | None = None,
        hard_schedule: ScheduleFunction | None = None,
        include: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] | None = None,
        rate_map: Mapping[str, float] | None = None,
        coupling: str = "independent",
        bn_policy: str = "follow",
        freeze: str = "post_step",
        sticky: bool = True,
        scope: str | None = None,
        prune_first: bool = True,
        prune_last: bool = True,
        prune_downsample: bool = False,
        min_keep: int = 1,
        round_to: int = 1,
        example_input: Tensor | Sequence[int] | None = None,
        prune_outputs: bool = False,
        ranking: str = "layer",
    ) -> None:
        super().__init__(
            model, rate, rate_schedule, decay_schedule, hard_schedule, bn_policy, freeze, sticky=sticky, scope=scope
        )
        check_choice("coupling", coupling, COUPLINGS)
        check_choice("ranking", ranking, RANKINGS)
        check_count("min_keep", min_keep, 1)
        check_count("round_to", round_to, 1)
        if rate_map and not rate:
            raise ValueError("rate_map needs a rate above 0, whose schedule its rates follow; got rate=0")
        if rate_map and ranking == "global":
            raise ValueError("rate_map gives layers rates of their own, which ranking='global' finds: give one of them")
        self.criterion = get_criterion(criterion)
        self.min_keep, self.round_to, self.ranking = min_keep, round_to, ranking
        self.limit: CostLimit | None = None
        self.selection = Selection(
            include=check_patterns("include", include),
            exclude=check_patterns("exclude", exclude),
            rate_map=dict(rate_map or {}),
            coupling=coupling,
            prune_first=prune_first,
            prune_last=prune_last,
            prune_downsample=prune_downsample,
            prune_outputs=prune_outputs,
        )
        images = None if example_input is None else make_images("example_input", example_input, self.network)
        with running_on("example_input", () if images is None else images):
            trace = trace_scope(self.network, images, model)
        self.image_shape = trace.image_shape
        groups, self.skipped = select_groups(trace, self.scope, self.rate, self.selection)
        self._set_units([self._unit(group) for group in groups])
        if getattr(self.criterion, "needs_gradients", False):
            self.gradients = GradientRecord(self.units)
        self._scored = {group.name: group.scored for group in groups}
        self._global = GlobalRanking([unit.size for unit in self.units], min_keep, round_to)
        self._check_layers(groups)
        self.outputs = sorted(trace.outputs & self.masks.keys()) if not self.scope or trace.of_model else []

    def count(self, unit: Unit, share: float) -> int:
        """Number of filters that a pruning rate stands for: floor(N * rate), without floating-point surprises.

        Args:
            unit (Unit): The layer.
            share (float): Absolute pruning rate; a layer with a rate of its own takes as much of that.
        """
        if not self.rate:
            return 0
        return masked_count(unit.size, share * (unit.rate / self.rate), self.round_to)

    def counts(self, t: int, total: int) -> list[tuple[int, int]]:
        """As :meth:`Pruner.counts`."""
        position = Position(*self.schedules.at(t, total))
        if self.ranking == "global":  # with a limit these numbers are only a scale
            rates = (position.rate, position.rate * position.hard_share)
            pruned_count, hard_count = (self._global.count(rate) for rate in rates)
            return [(pruned_count, hard_count)]
        return [self._counts(unit, position) for unit in self.units]

    def _counts(self, unit: Unit, position: Position) -> tuple[int, int]:
        pruned_count = self.count(unit, position.rate)
        # One floor over the product; rounding the kept number up may leave less than that.
        return pruned_count, min(self.count(unit, position.rate * position.hard_share), pruned_count)

    def settings(self) -> dict[str, Any]:
        """As :meth:`Pruner.settings`, with criterion and selection."""
        own = {name: describe(getattr(self.selection, name)) for name in self.selection.__dataclass_fields__}
        own.update(criterion=describe(self.criterion), min_keep=self.min_keep, round_to=self.round_to)
        own.update(ranking=self.ranking)
        return {**super().settings(), **own}

    def _unit(self, group: FilterGroup) -> Unit:
        slots = [Slot(name, attribute) for name in group.members for attribute in ("weight", "bias")]
        for name, offset in group.norms:
            for attribute, neutral in (("weight", 0.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
                gate = attribute == "weight" and (name, offset) in group.gates
                slots.append(Slot(name, attribute, offset, is_norm=True, neutral=neutral, is_gate=gate))
        empty = torch.zeros(group.size, dtype=torch.bool, device=weight_of(self.network, group.name).device)
        return Unit(group.name, group.members, group.size, group.rate, slots, empty, empty.clone())

    def _select(self, position: Position, final: bool) -> list[tuple[Tensor, Tensor, int, int]]:
        if self.ranking == "global":
            return self._select_globally(position, final)
        selected = []
        for unit in self.units:
            pruned_count, hard_count = self._counts(unit, position)
            if self.sticky:
                hard_count = max(hard_count, unit.hard_count)
                pruned_count = max(pruned_count, hard_count)
            order = None
            if pruned_count:
                scores = self._hard_first(unit, self._scores(unit, pruned_count))
                # At the end the last mask stands: zeros that were not in it must not take the place of its own.
                order = rank(scores, first=unit.pruned if final else None)
            selected.append(first_masked(unit, order, pruned_count, hard_count))
        return selected

    def _select_globally(self, position: Position, final: bool) -> list[tuple[Tensor, Tensor, int, int]]:
        if final and self.position is not None and self.position.rate == self.rate:  # the last mask stands
            return [(unit.pruned, unit.pruned.clone(), unit.pruned_count, unit.pruned_count) for unit in self.units]
        if not position.rate and not any(unit.hard_count for unit in self.units):
            return [first_masked(unit, None, 0, 0) for unit in self.units]
        scores = [
            self._hard_first(unit, normalised(self._scores(unit, self.count(unit, position.rate)), unit.pruned))
            for unit in self.units
        ]
        share = position.rate if self.limit is None else position.rate / self.rate
        hard_before = [unit.hard_count if self.sticky else 0 for unit in self.units]
        orders = [rank(own, first=unit.pruned if final else None) for own, unit in zip(scores, self.units, strict=True)]
        ordered = [own[order] for own, order in zip(scores, orders, strict=True)]
        numbers = self._global.numbers(ordered, (share, share * position.hard_share), hard_before, self.limit)
        return [first_masked(*row) for row in zip(self.units, orders, *numbers, strict=True)]

    def _hard_first(self, unit: Unit, scores: Tensor) -> Tensor:
        return scores.masked_fill(unit.hard, -math.inf) if self.sticky else scores

    def _scores(self, unit: Unit, count: int) -> Tensor:
        """What the criterion says of the filters, (N,), the lowest is the least important."""
        weights = [weight_of(self.network, name) for name in self._scored[unit.name]]
        filters = torch.cat([weight.flatten(1) for weight in weights], dim=1)
        hard = unit.hard if self.sticky else torch.zeros_like(unit.hard)
        derivative = None if self.gradients is None else self.gradients.of(unit)
        context = Context(unit.name, count, hard, self._scale(unit), derivative, unit.pruned, self._progress)
        scores = self.criterion(filters, context)
        if scores.shape != unit.hard.shape or not scores.is_floating_point():
            raise ValueError(
                f"criterion {type(self.criterion).__name__} must return one floating-point score a filter, shape "
                f"{tuple(unit.hard.shape)}, but returned {scores.dtype} of shape {tuple(scores.shape)} for {unit.name}"
            )
        return scores

    def _scale(self, unit: Unit) -> Tensor | None:
        if not getattr(self.criterion, "needs_scale", False):
            return None
        squares = [
            upcast(slot.covered(tensor, unit.pruned)).square()
            for slot, tensor in unit.tensors(self.network)
            if slot.is_norm and slot.attribute == "weight"
        ]
        return torch.stack(squares).sum(0).sqrt() if squares else None

    def _check_layers(self, groups: Sequence[FilterGroup]) -> None:
        if self.ranking == "global":
            self._global.check_rate(self.rate)
        for unit in self.units:
            number = math.floor(unit.size * unit.rate + 1e-9)
            if self.ranking == "layer" and unit.size - number < self.min_keep:
                raise ValueError(
                    f"rate {unit.rate:g} leaves {unit.size - number} of {unit.size} filters in {unit.name}, fewer than "
                    f"min_keep={self.min_keep}: lower the rate, or give the layer its own with rate_map"
                )
            if getattr(self.criterion, "needs_scale", False):
                self.criterion(torch.zeros(1, 1), Context(unit.name, 0, unit.hard, self._scale(unit)))
        inexact = [f"{group.name} ({group.inexact})" for group in groups if group.inexact]
        if inexact:
            warnings.warn(
                "zero filters do not become zero channels, so that they cannot be removed exactly, behind "
                + ", ".join(inexact[:5])
                + (f" and {len(inexact) - 5} more layers" if len(inexact) > 5 else ""),
                stacklevel=4,
            )
        if self.bn_policy == "none" and any(group.norms for group in groups):
            warnings.warn(
                "bn_policy='none' leaves a constant (the BatchNorm's shift) behind every pruned filter, so that it "
                "cannot be removed exactly; 'follow' leaves zeros",
                stacklevel=4,
            )
