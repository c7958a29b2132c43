"""How far a queue of rows has come, and when it will be done."""

import json
import statistics
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rows import Row

# A row in training: epochs (or iterations) that are saved, those of them that were there at its start, how many are
# planned, and the time of its start.
Running = tuple[Row, int, int, int, float]


class Progress:
    """Expect the end of a queue from what rows have taken.

    A row is expected to take as long as rows of its name took with other seeds, else as its own first epochs let
    expect, else as the rows of this queue on average.

    Args:
        results: Folder of the result files.
    """

    def __init__(self, results: Path) -> None:
        self.results = results
        self._learnt: dict[str, float] = {}  # seconds by name, from epochs of rows that were in training

    def line(self, done: int, running: Sequence[Running], waiting: Sequence[Row], jobs: int) -> str:
        """One line: rows done, running and left, and the expected end."""
        counts = f"{done} done, {len(running)} running, {len(waiting)} left"
        details = "; ".join(f"{row}: {saved} of {planned}" for row, saved, _, planned, _ in running)
        left = self.seconds_left(running, waiting, jobs)
        if left is None:
            end = "expected end not known before the first epochs"
        else:
            end = f"expected end {datetime.fromtimestamp(time.time() + left):%d %B, %H:%M}"
        return f"{counts}; {end}" + (f" ({details})" if details else "")

    def seconds_left(self, running: Sequence[Running], waiting: Sequence[Row], jobs: int) -> float | None:
        """Expected seconds until all rows are done; None if nothing is known yet."""
        known = self._measured()
        for row, saved, before, planned, started in running:
            new = saved - before
            if new > 0:
                self._learnt[row.name] = (time.monotonic() - started) * planned / new
        known = {**self._learnt, **known}
        names = [row.name for row in waiting] + [row.name for row, *_ in running]
        expected = [known[name] for name in names if name in known]
        if not expected:
            return None
        average = statistics.mean(expected)
        work = sum(known.get(row.name, average) for row in waiting)
        ends = [known.get(row.name, average) * (1 - saved / planned) for row, saved, _, planned, _ in running]
        return max([(work + sum(ends)) / max(1, jobs), *ends])

    def _measured(self) -> dict[str, float]:
        times: dict[str, list[float]] = {}
        for file in self.results.glob("train_*_seed*.json"):
            try:
                result = json.loads(file.read_text())
                times.setdefault(result["row"], []).append(float(result["wall_s"]))
            except (OSError, ValueError, KeyError, TypeError):
                continue  # it is not what this is about
        return {name: statistics.mean(values) for name, values in times.items()}
