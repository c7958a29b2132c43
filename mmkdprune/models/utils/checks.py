"""Checks of option values."""

import math
from typing import Any


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number.

    Args:
        value (Any): What a config holds.

    Returns:
        bool: False for text, infinity, NaN, booleans and anything else.
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
