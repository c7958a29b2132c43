"""Let MMCV shift hues on NumPy 2.

MMPretrain's ``ColorJitter`` (of every self-supervised config) draws negative shifts half of the time, and MMCV turns
``hue_factor * 255`` into an unsigned byte, which NumPy 2 refuses for negative numbers with an ``OverflowError``.
"""

from collections.abc import Callable
from typing import Any

from .patching import patch


class _Shift(float):
    """A shift whose multiples lie in a byte, modulo 256 as in NumPy 1."""

    def __mul__(self, other: float) -> int:
        return int(float(self) * other) % 256


def _with_negative_shifts(original: Callable) -> Callable:
    def adjust_hue(img: Any, hue_factor: float, backend: str | None = None) -> Any:
        return original(img, _Shift(hue_factor), backend)

    return adjust_hue


def patch_hue() -> None:
    """Replaces MMCV's ``adjust_hue``, which is then in use by every transform."""
    import mmcv

    patch(mmcv, "adjust_hue", _with_negative_shifts)
