"""Checks of arguments, with messages that name the field, the value and what would do."""

import math
import re
from collections.abc import Sequence
from typing import Any


def check_number(
    field: str,
    value: Any,
    low: float,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
    optional: bool = False,
) -> None:
    """Raise ``ValueError`` unless ``value`` is a number between ``low`` and ``high`` (or None, if ``optional``)."""
    if value is None and optional:
        return
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if good:
        good = (value > low if open_low else value >= low) and (value < high if open_high else value <= high)
    if not good:
        interval = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high or math.isinf(high) else ']'}"
        raise ValueError(f"{field} must be a number in {interval}{' or None' if optional else ''}, got {value!r}")


def check_count(field: str, value: Any, low: int, optional: bool = False) -> None:
    """Raise ``ValueError`` unless ``value`` is a whole number of at least ``low`` (or None, if ``optional``)."""
    if value is None and optional:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ValueError(
            f"{field} must be a whole number of {low} or more{' or None' if optional else ''}, got {value!r}"
        )


def check_choice(field: str, value: Any, choices: Sequence[str]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{field} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_patterns(field: str, value: Any) -> tuple[str, ...]:
    """Return one or several regular expressions as a tuple; raise ``ValueError`` if one cannot be compiled."""
    patterns = () if value is None else (value,) if isinstance(value, str) else tuple(value)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise ValueError(f"{field} takes regular expressions (a str or a list of str), got {pattern!r}")
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{field}: {pattern!r} is no regular expression ({error})") from None
    return patterns
