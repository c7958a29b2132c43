"""Pruning of single weights."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmkdprune.arguments import checked

from .checks import check_choice, check_patterns
from .criteria import upcast
from .pruner import Pruner
from .schedules.position import Position, ScheduleFunction
from .selection import Patterns
from .units import Slot, Unit, weight_of


class WeightPruner(Pruner):
    """Prune single weights by magnitude along three schedules; see :class:`Pruner` for what a step does.

    The same engine with elements instead of filters: Conv2d and Linear weights, without biases and norms. Unstructured
    zeros make nothing faster by themselves. The papers say that their methods apply to weights, too, but give no
    details here: which layers are chosen, and how, follows the usual practice of magnitude pruning.

    Args:
        model (nn.Module): The model; changed in place by every step.
        rate (float): Target share of zero weights in [0, 1).
        rate_schedule, decay_schedule, hard_schedule, freeze, sticky, scope: See :class:`Pruner`.
        include (str | Sequence[str], optional): Regular expressions; only matching layers are pruned.
        exclude (str | Sequence[str], optional): Matching layers are not pruned.
        ranking (str): ``'layer'`` (default): the rate holds in every layer. ``'global'``: weights of all layers are
            ranked together.
        pattern (str | None): ``'2:4'`` prunes two of every four consecutive input channels, which sparse tensor cores
            make use of; needs ``rate=0.5`` and ``ranking='layer'``. Layers whose number of input channels is not a
            multiple of 4 are left alone. Defaults to None.
        prune_first (bool): Prune the first convolution, too. Defaults to False.
        prune_last (bool): Prune the last Linear layer, too. Defaults to False.

    Attributes:
        skipped (dict[str, str]): Layers that are not pruned, with the reason.

    Raises:
        ValueError: If an argument is out of range, a pattern matches nothing, a layer would be left empty, or the
            schedules do not end where they must.
    """

    items = "weights"

    @checked
    def __init__(
        self,
        model: nn.Module,
        rate: float,
        rate_schedule: ScheduleFunction | None = None,
        decay_schedule: ScheduleFunction | None = None,
        hard_schedule: ScheduleFunction | None = None,
        include: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] | None = None,
        ranking: str = "layer",
        pattern: str | None = None,
        freeze: str = "post_step",
        sticky: bool = True,
        scope: str | None = None,
        prune_first: bool = False,
        prune_last: bool = False,
    ) -> None:
        super().__init__(model, rate, rate_schedule, decay_schedule, hard_schedule, "none", freeze, sticky, scope)
        check_choice("ranking", ranking, ("layer", "global"))
        if pattern is not None:
            check_choice("pattern", pattern, ("2:4",))
            if rate != 0.5 or ranking != "layer":
                raise ValueError(
                    f"pattern='2:4' prunes half of each layer's weights: it needs rate=0.5 and ranking='layer', got "
                    f"rate={rate:g}, ranking={ranking!r}"
                )
        self.ranking, self.pattern = ranking, pattern
        self.include, self.exclude = check_patterns("include", include), check_patterns("exclude", exclude)
        self.prune_first, self.prune_last = prune_first, prune_last
        self.skipped: dict[str, str] = {}
        self._set_units([self._unit(name) for name in self._chosen_layers()])

    def settings(self) -> dict[str, Any]:
        """As :meth:`Pruner.settings`, with what chooses the weights."""
        names = ("ranking", "pattern", "prune_first", "prune_last")
        own: dict[str, Any] = {name: getattr(self, name) for name in names}
        return {**super().settings(), **own, "include": list(self.include), "exclude": list(self.exclude)}

    def counts(self, t: int, total: int) -> list[tuple[int, int]]:
        """As :meth:`Pruner.counts`."""
        position = Position(*self.schedules.at(t, total))
        sizes = [unit.size for unit in self.units]
        return [self._counts(size, 0, position) for size in ([sum(sizes)] if self.ranking == "global" else sizes)]

    def _chosen_layers(self) -> list[str]:
        layers = {
            name: module
            for name, module in self.network.named_modules()
            if isinstance(module, (nn.Conv2d, nn.Linear)) and isinstance(module.weight, nn.Parameter)
        }
        wanted = Patterns("include", self.include, self.scope, list(layers))
        unwanted = Patterns("exclude", self.exclude, self.scope, list(layers))
        first = next((name for name, module in layers.items() if isinstance(module, nn.Conv2d)), None)
        last = next((name for name in reversed(layers) if isinstance(layers[name], nn.Linear)), None)
        for name, module in layers.items():
            if wanted and wanted.first(name) is None:
                self.skipped[name] = "not matched by include"
            elif pattern := unwanted.first(name):
                self.skipped[name] = f"exclude={pattern!r}"
            elif name == first and not self.prune_first and not wanted:
                self.skipped[name] = "prune_first=False"
            elif name == last and not self.prune_last and not wanted:
                self.skipped[name] = "prune_last=False"
            elif self.pattern and module.weight.shape[1] % 4:
                self.skipped[name] = f"{module.weight.shape[1]} input channels are no multiple of 4"
        chosen = [name for name in layers if name not in self.skipped]
        if not chosen:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in list(self.skipped.items())[:6])
            raise ValueError(
                f"no Conv2d or Linear weights are left to prune in {self.scope or 'the model'} ({reasons})"
            )
        return chosen

    def _unit(self, name: str) -> Unit:
        weight = weight_of(self.network, name)
        if math.floor(weight.numel() * self.rate + 1e-9) >= weight.numel():
            raise ValueError(f"rate {self.rate!r} leaves no weight in {name} ({weight.numel()} weights): lower it")
        empty = torch.zeros(weight.shape, dtype=torch.bool, device=weight.device)
        return Unit(name, [name], weight.numel(), self.rate, [Slot(name, "weight")], empty, empty.clone())

    def _select(self, position: Position, final: bool) -> list[tuple[Tensor, Tensor, int, int]]:
        scores = [self._scores(unit, final) for unit in self.units]
        if self.ranking == "global":
            return self._select_globally(scores, position)
        selected = []
        for unit, own in zip(self.units, scores, strict=True):
            pruned_count, hard_count = self._counts(unit.size, unit.hard_count, position)
            pruned, hard = (smallest(own, number) for number in (pruned_count, hard_count))
            selected.append((pruned, hard, pruned_count, hard_count))
        return selected

    def _select_globally(self, scores: list[Tensor], position: Position) -> list[tuple[Tensor, Tensor, int, int]]:
        sizes = [unit.size for unit in self.units]
        hard_before = sum(unit.hard_count for unit in self.units)
        counts = self._counts(sum(sizes), hard_before, position)
        every = torch.cat([own.flatten() for own in scores])
        masks = [smallest(every, number).split(sizes) for number in counts]
        shaped = [
            (pruned.view(unit.pruned.shape), hard.view(unit.hard.shape))
            for unit, pruned, hard in zip(self.units, *masks, strict=True)
        ]
        # Only here the numbers of each layer are not known beforehand: one transfer for all of them.
        numbers = torch.stack([torch.stack([pruned.sum(), hard.sum()]) for pruned, hard in shaped]).tolist()
        return [(*pair, *number) for pair, number in zip(shaped, numbers, strict=True)]

    def _counts(self, size: int, hard_before: int, position: Position) -> tuple[int, int]:
        pruned_count = math.floor(size * position.rate + 1e-9)
        hard_count = math.floor(size * position.rate * position.hard_share + 1e-9)
        hard_count = max(hard_count, hard_before) if self.sticky else hard_count
        return max(pruned_count, hard_count), hard_count

    def _scores(self, unit: Unit, final: bool) -> Tensor:
        """Magnitudes, hard weights first; with a pattern, weights that must stay last."""
        scores = upcast(weight_of(self.network, unit.name)).abs()
        if final:  # the last mask stands where there are other zeros
            scores = torch.where((scores == 0) & unit.pruned, -1.0, scores)
        if self.sticky:
            scores = scores.masked_fill(unit.hard, -2.0)
        if self.pattern == "2:4":
            scores = scores.masked_fill(~two_smallest_of_four(scores), math.inf)
        return scores


def smallest(scores: Tensor, number: int) -> Tensor:
    """Mask of exactly ``number`` smallest scores, ties by index; bool, of the scores' shape."""
    flat = scores.flatten()
    if number <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    limit = flat.kthvalue(number).values
    below, equal = flat < limit, flat == limit
    mask = below | (equal & (equal.cumsum(0) <= number - below.sum()))
    return mask.view(scores.shape)


def two_smallest_of_four(scores: Tensor) -> Tensor:
    """Mask of the two smallest scores among every four consecutive input channels (dimension 1), ties by index."""
    last = scores.movedim(1, -1)
    order = last.unflatten(-1, (-1, 4)).argsort(dim=-1, stable=True)
    mask = torch.zeros_like(order, dtype=torch.bool).scatter_(-1, order[..., :2], True)
    return mask.flatten(-2).movedim(-1, 1)
