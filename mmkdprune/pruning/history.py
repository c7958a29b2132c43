"""What every prune step did, kept on the device until somebody asks."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .units import Unit

TIMES = ("t", "total", "rate", "decay", "hard_share", "final")
COUNTS = ("pruned", "hard", "zero", "previous", "zeroed", "overlap", "revived")
_SHARE_OF = {"overlap": "previous", "revived": "zeroed"}
_ON_DEVICE = ("zero", "overlap", "revived")


class StepCounts:
    """Counts one prune step, unit by unit; what depends on masks and weights stays on the device.

    Args:
        zeroed_soft (bool): Whether the step before set soft filters to zero, too.
    """

    def __init__(self, zeroed_soft: bool) -> None:
        self.known: dict[str, list[int]] = {name: [] for name in ("pruned", "hard", "previous", "zeroed")}
        self._zeroed_soft = zeroed_soft
        self._compared: list[tuple[Tensor, Tensor]] = []
        self._rows: list[Tensor] = []

    def before(self, unit: Unit, pruned: Tensor, zero: Tensor) -> None:
        """Count what the step changes of a unit.

        Args:
            unit (Unit): With the masks of the step before.
            pruned (Tensor): The new mask.
            zero (Tensor): Which filters are zero.
        """
        left_at_zero = unit.pruned if self._zeroed_soft else unit.hard
        self.known["previous"].append(unit.pruned_count)
        self.known["zeroed"].append(unit.pruned_count if self._zeroed_soft else unit.hard_count)
        self._compared.append(((unit.pruned & pruned).sum(), (left_at_zero & ~zero).sum()))

    def after(self, unit: Unit, zero: Tensor) -> None:
        """Count what the step has left of the unit that came last.

        Args:
            unit (Unit): With its new masks.
            zero (Tensor): Which filters are zero.
        """
        self.known["pruned"].append(unit.pruned_count)
        self.known["hard"].append(unit.hard_count)
        self._rows.append(torch.stack([zero.sum(), *self._compared[-1]]))

    def on_device(self) -> Tensor:
        """``zero, overlap, revived`` of each unit on the first unit's device, int64, (U, 3)."""
        return torch.stack([row.to(self._rows[0].device) for row in self._rows])


class History:
    """Schedules and counts of every step.

    Args:
        sizes (Mapping[str, int]): Number of filters (or weights) of each unit.

    Attributes:
        sizes: As above.
        entries: One dictionary a step that was read: ``t, total, rate, decay, hard_share, final`` (whether it was
            ``finalize`` and no training came before it) and, each a list over the
            units: numbers of filters ``pruned`` (masked), ``hard``, ``zero``; ``previous`` (masked at the step
            before) and how many of those were masked again (``overlap``); ``zeroed`` (left at zero by the step
            before) and how many of those were not zero any more when the step began (``revived``).
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = dict(sizes)
        self.entries: list[dict[str, Any]] = []
        self._waiting: list[tuple[dict[str, Any], Tensor]] = []

    def add(self, times: Mapping[str, float], counts: StepCounts) -> None:
        """Note a step.

        Args:
            times (Mapping[str, float]): ``t, total, rate, decay, hard_share, final``.
            counts (StepCounts): Of all units.
        """
        self._waiting.append(({**times, **counts.known}, counts.on_device()))

    @property
    def times(self) -> tuple[int, int]:
        """``t`` and ``total`` of the latest step; (0, 1) before the first."""
        entry = self._waiting[-1][0] if self._waiting else self.entries[-1] if self.entries else {"t": 0, "total": 1}
        return entry["t"], entry["total"]

    def read(self) -> dict[str, Any]:
        """Fetch what is still on the device; return the latest step as :func:`summarise` does, {} if there is none."""
        for entry, on_device in self._waiting:
            columns = on_device.T.tolist()
            self.entries.append({**entry, **dict(zip(_ON_DEVICE, columns, strict=True))})
        self._waiting.clear()
        return summarise(self.entries[-1], self.sizes) if self.entries else {}

    def state_dict(self) -> dict[str, Any]:
        """All steps: times as lists, counts as int64 tensors (steps, units)."""
        self.read()
        times = {name: [entry[name] for entry in self.entries] for name in TIMES}
        shape = (len(self.entries), len(self.sizes))
        counts = {name: torch.tensor([entry[name] for entry in self.entries]).reshape(shape) for name in COUNTS}
        return {"sizes": dict(self.sizes), **times, **counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the steps of another run."""
        self._waiting.clear()
        self.sizes = dict(state["sizes"])
        self.entries = entries_of(state)


def entries_of(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Steps of a saved history, in the form of ``History.entries``."""
    columns = {name: state[name] for name in TIMES} | {name: state[name].tolist() for name in COUNTS}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def summarise(entry: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    """One step with its sums and shares: the dictionary of ``Pruner.report``.

    Args:
        entry: A member of ``History.entries``.
        sizes: ``History.sizes``.
    """
    rows = [dict(zip(COUNTS, row, strict=True)) for row in zip(*(entry[name] for name in COUNTS), strict=True)]
    rows = [{"filters": size, **row} for size, row in zip(sizes.values(), rows, strict=True)]
    whole = {name: sum(row[name] for row in rows) for name in ("filters", *COUNTS)}
    layers = {name: _with_shares(row) for name, row in zip(sizes, rows, strict=True)}
    return {**{name: entry[name] for name in TIMES}, **_with_shares(whole), "layers": layers}


def exchanged(steps: Iterable[Mapping[str, Any]]) -> float | None:
    """Share of the masked filters that a prune step gives back, and takes others for: the mean over steps.

    Args:
        steps: As :func:`summarise` returns them. The first one with a mask has none before it to compare with, and
            ``finalize`` keeps the mask that there is: neither counts.

    Returns:
        float | None: In [0, 1]; 0 where the first mask stays. None where no two masks follow each other.
    """
    shares = [1 - step["overlap"] for step in steps if step.get("overlap") is not None and not step["final"]]
    return sum(shares) / len(shares) if shares else None


def _with_shares(row: Mapping[str, int]) -> dict[str, Any]:
    """Replace the two counts that are only meaningful beside another by shares of that; None where it is 0."""
    shares = {name: row[name] / row[whole] if row[whole] else None for name, whole in _SHARE_OF.items()}
    return {name: value for name, value in {**row, **shares}.items() if name not in _SHARE_OF.values()}
