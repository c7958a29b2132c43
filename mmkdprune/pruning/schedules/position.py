"""Where on its three schedules a pruner is, and whether these end where they must."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

ScheduleFunction = Callable[[int, int], float]
# Short and long runs: what a schedule ends at must not depend on the number of steps.
_TOTALS = (1, 2, 3, 10, 200)


class Position(NamedTuple):
    """Values of the three schedules at one step."""

    rate: float
    decay: float
    hard_share: float


class Schedules(NamedTuple):
    """The three schedules of a method."""

    rate_schedule: ScheduleFunction
    decay_schedule: ScheduleFunction
    hard_schedule: ScheduleFunction

    def at(self, t: int, total: int) -> tuple[float, float, float]:
        """Pruning rate, decay and hard share at a step."""
        return (self.rate_schedule(t, total), self.decay_schedule(t, total), self.hard_schedule(t, total))

    def check_values(self) -> None:
        """Refuse schedules that cannot be called with a step and their number, or return no number.

        Raises:
            ValueError: With the name of the schedule.
        """
        for name, schedule in zip(self._fields, self, strict=True):
            try:
                value = schedule(0, 1)
            except TypeError as error:
                raise ValueError(f"{name} is called as {name}(t, total), which fails: {error}") from error
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ValueError(f"{name} must return a number, but {name}(0, 1) is {value!r}")

    @property
    def hard_end(self) -> float:
        """Hard share at the end."""
        return float(self.hard_schedule(_TOTALS[-1] - 1, _TOTALS[-1]))

    def check(self, rate: float, ends_hard: bool | None = None, method: str = "") -> None:
        """Refuse schedules that would not leave a pruned network behind.

        Args:
            rate (float): Where the pruning rate must end.
            ends_hard (bool | None): Whether the hard share must end at 1 (True) or be 0 throughout (False); None
                accepts both.
            method (str): Name of the method, for messages.

        Raises:
            ValueError: If a schedule ends elsewhere or leaves [0, 1].
        """
        self.check_values()
        of = f" of {method}" if method else ""
        for total in _TOTALS:
            for t in range(total):
                for name, value in zip(self._fields, self.at(t, total), strict=True):
                    if not (math.isfinite(value) and 0 <= value <= 1):
                        raise ValueError(f"{name}{of} must stay in [0, 1], but is {value!r} at t={t} of total={total}")
                if self.rate_schedule(t, total) > rate + 1e-9:
                    raise ValueError(
                        f"rate_schedule{of} must not exceed rate={rate:g}, but is {self.rate_schedule(t, total):g} at "
                        f"t={t} of total={total}: hard filters never come back"
                    )
            last_rate, last_decay, _ = self.at(total - 1, total)
            if not math.isclose(last_rate, rate, abs_tol=1e-12):
                raise ValueError(
                    f"rate_schedule{of} must end at rate={rate:g}, but is {last_rate:g} at the last of {total} steps: "
                    "give it the same rate"
                )
            if last_decay != 0:
                raise ValueError(
                    f"decay_schedule{of} must end at 0, or nothing is zero at the end, but is {last_decay:g} at the "
                    f"last of {total} steps"
                )
            shares = [float(self.hard_schedule(t, total)) for t in range(total)]
            if ends_hard is not True and not any(shares):
                continue
            if ends_hard is False:
                raise ValueError(f"hard_schedule{of} must be 0 throughout, but is up to {max(shares):g}")
            if shares[-1] != 1:
                raise ValueError(
                    f"hard_schedule{of} must end at 1{'' if ends_hard else ' (or be 0 throughout)'}, but is "
                    f"{shares[-1]:g} at the last of {total} steps"
                )


def describe(value: Any) -> Any:
    """A setting as plain data that is equal in another process if the setting is."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    if hasattr(value, "__qualname__"):
        return value.__qualname__
    if isinstance(value, functools.partial):
        return describe([value.func, list(value.args), value.keywords])
    if dataclasses.is_dataclass(value):
        items = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    elif hasattr(value, "__dict__") and not hasattr(value, "shape"):
        items = list(vars(value).items())
    else:
        return repr(value)
    fields = ", ".join(f"{name}={describe(item)!r}" for name, item in items)
    return f"{type(value).__name__}({fields})"
