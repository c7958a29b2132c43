"""How pruning rate, soft decay and hard share develop over training.

Every schedule is a small object: ``schedule(t, total) -> float`` with ``t`` the 0-based index of the epoch (or prune
step) that has just finished, out of ``total``; any function of that form does as well. All three kinds reach their end
value at ``t = total - 1``; those with ``snap_at`` already at ``t >= snap_at * total``, so that the network goes on
training in its final form.

- pruning rate P(t): share of filters in the mask, an absolute value that ends at ``rate``;
- soft decay alpha(t): factor on the soft part of the mask, from ``alpha_0`` down to 0;
- hard share lambda(t): share of the mask that is zeroed and frozen, up to 1 or 0 throughout (:mod:`.hard_shares`).

Sources: the exponential rate is ASFP's (He et al., "Asymptotic Soft Filter Pruning for Deep Convolutional Neural
Networks", IEEE Transactions on Cybernetics 2019). Decay and hard share follow the code that the first author of SRFP /
ASRFP (arXiv 2010.09498) and GHFP (arXiv 2011.03170) published later; the text of those two papers could not be checked.
"""

import math
from dataclasses import dataclass

from mmkdprune.arguments import checked

from ..checks import check_number


@checked
@dataclass(frozen=True)
class Schedule:
    """Base of the built-in schedules: handles the end and the snap, subclasses give the curve before it.

    Args:
        snap_at (float | None): Share of ``total`` from which on the end value is returned; None: at the last step only.
    """

    def __post_init__(self) -> None:
        check_number(f"{type(self).__name__}.snap_at", self.snap, 0, 1, open_low=True, optional=True)
        self._check()

    @property
    def snap(self) -> float | None:
        """``snap_at``, for schedules that have it."""
        return getattr(self, "snap_at", None)

    @property
    def end(self) -> float:
        """Value at the last step."""
        raise NotImplementedError

    def curve(self, t: int, total: int) -> float:
        """Value before the snap."""
        raise NotImplementedError

    def _check(self) -> None:
        """Refuse arguments out of range."""

    def __call__(self, t: int, total: int) -> float:
        """Value after step ``t`` (0-based) of ``total``.

        Raises:
            ValueError: If ``t`` is not one of the ``total`` steps.
        """
        if not 0 <= t < total:
            raise ValueError(f"{type(self).__name__}: step t={t} is not one of total={total} steps (0 .. total - 1)")
        # The small amount keeps 0.7 * 10, which is a little more than 7 in binary, at step 7.
        if t == total - 1 or (self.snap is not None and t >= self.snap * total - 1e-9):
            return self.end
        return self.curve(t, total)


@checked
@dataclass(frozen=True)
class _Rate(Schedule):
    rate: float

    @property
    def end(self) -> float:
        return self.rate

    def _check(self) -> None:
        check_number(f"{type(self).__name__}.rate", self.rate, 0, 1, open_high=True)


@checked
@dataclass(frozen=True)
class ConstantRate(_Rate):
    """The target rate from the first step (SFP, SRFP, HFP, FPGM)."""

    def curve(self, t: int, total: int) -> float:
        """Return the target rate."""
        return self.rate


@checked
@dataclass(frozen=True)
class AsymptoticRate(_Rate):
    """Exponential approach to the target rate, three quarters of it after ``quarter * total`` steps (ASFP, ASRFP).

    Closed form ``rate * (1 - 4 ** (-t / (quarter * total)))``, which would end short of the target by 4^-8 of it, hence
    the snap.

    Args:
        rate (float): Target rate in [0, 1).
        quarter (float): Share of the steps after which a quarter of the rate is left to go. Defaults to 1/8.
            Other implementations solve for the exponential through 0, 3/4 of the rate and the rate itself at
            ``t = total``; the two differ by less than 2e-5 of the rate.
        snap_at (float | None): Defaults to 0.9.
    """

    quarter: float = 1 / 8
    snap_at: float | None = 0.9

    def _check(self) -> None:
        super()._check()
        # From 3/4 on no saturating curve goes through the three points.
        check_number("AsymptoticRate.quarter", self.quarter, 0, 0.75, open_low=True, open_high=True)

    def curve(self, t: int, total: int) -> float:
        """Return the exponential."""
        return self.rate * (1 - 4 ** (-t / (self.quarter * total)))


@checked
@dataclass(frozen=True)
class CubicRate(_Rate):
    """``rate * (1 - (1 - (t + 1) / total)^3)``."""

    snap_at: float | None = 0.9

    def curve(self, t: int, total: int) -> float:
        """Return the polynomial."""
        return self.rate * cubic(t, total)


@checked
@dataclass(frozen=True)
class _Decay(Schedule):
    alpha_0: float = 1.0

    @property
    def end(self) -> float:
        return 0.0

    def _check(self) -> None:
        check_number(f"{type(self).__name__}.alpha_0", self.alpha_0, 0, 1)


@checked
@dataclass(frozen=True)
class ExpDecay(_Decay):
    """``alpha_0 * exp(-kappa * t)``, which comes down to about ``sigma`` at ``t = total`` (SRFP, ASRFP).

    ``kappa = -ln(sigma / (alpha_0 + 0.01 * sigma)) / total``. One multiplication by alpha an epoch is a step of L2
    regularisation of the masked filters alone, whose strength grows over training.

    Args:
        alpha_0 (float): First value in [0, 1]; 0 is SFP. Defaults to 1.
        sigma (float): Value at the end of the curve. Defaults to 1e-5.
        snap_at (float | None): Defaults to 0.9; ImageNet runs of the author 0.8.
    """

    sigma: float = 1e-5
    snap_at: float | None = 0.9

    def _check(self) -> None:
        super()._check()
        check_number("ExpDecay.sigma", self.sigma, 0, self.alpha_0 or 1, open_low=True, open_high=True)

    def curve(self, t: int, total: int) -> float:
        """Return the exponential."""
        if not self.alpha_0:
            return 0.0
        kappa = -math.log(self.sigma / (self.alpha_0 + 0.01 * self.sigma)) / total
        return self.alpha_0 * math.exp(-kappa * t)


@checked
@dataclass(frozen=True)
class LinearDecay(_Decay):
    """``alpha_0 * (1 - t / (total - 1))``."""

    snap_at: float | None = 0.9

    def curve(self, t: int, total: int) -> float:
        """Return the straight line."""
        return self.alpha_0 * (1 - t / (total - 1))


@checked
@dataclass(frozen=True)
class CosineDecay(_Decay):
    """``alpha_0 * (1 + cos(pi * t / total)) / 2``."""

    snap_at: float | None = 0.9

    def curve(self, t: int, total: int) -> float:
        """Return half a cosine wave."""
        return self.alpha_0 * (1 + math.cos(math.pi * t / total)) / 2


@checked
@dataclass(frozen=True)
class ConstantDecay(_Decay):
    """``alpha_0`` until the snap, then 0. The default of 0 zeroises masked filters at every step (SFP, ASFP)."""

    alpha_0: float = 0.0
    snap_at: float | None = 0.9

    def curve(self, t: int, total: int) -> float:
        """Return ``alpha_0``."""
        return self.alpha_0


def cubic(t: int, total: int) -> float:
    """``1 - (1 - (t + 1) / total)^3``."""
    return 1 - (1 - (t + 1) / total) ** 3


RATES = (ConstantRate, AsymptoticRate, CubicRate)
DECAYS = (ConstantDecay, ExpDecay, LinearDecay, CosineDecay)
