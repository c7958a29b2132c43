"""How the hard share lambda(t) develops: the part of the mask that is zeroed and frozen; see :mod:`.rates`."""

import math
from dataclasses import dataclass

from mmkdprune.arguments import checked

from ..checks import check_number
from .rates import Schedule, cubic


@checked
@dataclass(frozen=True)
class _HardShare(Schedule):
    @property
    def end(self) -> float:
        return 1.0


@checked
@dataclass(frozen=True)
class CubicHardShare(_HardShare):
    """``1 - (1 - (t + 1) / total)^3`` (GHFP, the author's default)."""

    snap_at: float | None = 0.9

    def curve(self, t: int, total: int) -> float:
        """Return the polynomial."""
        return cubic(t, total)


@checked
@dataclass(frozen=True)
class CosineHardShare(_HardShare):
    """Half a cosine wave from 0 at ``warmup * total`` to 1 at ``snap_at * total``; 0 before it.

    Args:
        warmup (float): Share of the steps without hard filters, less than ``snap_at``. Defaults to 0.
        snap_at (float | None): Defaults to 0.9; None: 1.
    """

    warmup: float = 0.0
    snap_at: float | None = 0.9

    def _check(self) -> None:
        check_number("CosineHardShare.warmup", self.warmup, 0, self.snap_at or 1, open_high=True)

    def curve(self, t: int, total: int) -> float:
        """Return half a cosine wave."""
        begin, end = self.warmup * total, (self.snap_at or 1) * total
        return 0.5 - 0.5 * math.cos(math.pi * (t - begin) / (end - begin)) if t > begin else 0.0


@checked
@dataclass(frozen=True)
class ConstantHardShare(_HardShare):
    """``share`` until the snap, then 1; a share of 0 stays 0 throughout.

    1 is hard pruning from the first step (HFP, FPGM), 0 soft pruning throughout (SFP, ASFP, SRFP, ASRFP); between them
    lies the fixed mixture of the author's code.

    Args:
        share (float): In [0, 1]. Defaults to 1.
        snap_at (float | None): Defaults to 0.9.
    """

    share: float = 1.0
    snap_at: float | None = 0.9

    @property
    def end(self) -> float:
        """1, or 0 when there is no hard share at all."""
        return 1.0 if self.share else 0.0

    def _check(self) -> None:
        check_number("ConstantHardShare.share", self.share, 0, 1)

    def curve(self, t: int, total: int) -> float:
        """Return the share."""
        return float(self.share)


HARD_SHARES = (ConstantHardShare, CubicHardShare, CosineHardShare)
