import math

import pytest

from mmkdprune.pruning import (
    METHODS,
    AsymptoticRate,
    ConstantDecay,
    ConstantHardShare,
    ConstantRate,
    CosineHardShare,
    CubicHardShare,
    CubicRate,
    ExpDecay,
    LinearDecay,
    preset,
)
from mmkdprune.pruning.presets import ends_hard
from mmkdprune.pruning.schedules.hard_shares import HARD_SHARES
from mmkdprune.pruning.schedules.rates import DECAYS, RATES

TOTALS = (1, 2, 3, 10, 20, 200)
# From a log of the methods' author: T = 100, P = 0.4, D = 1/8, alpha_0 = 1, sigma = 1e-5.
GOLDEN = [
    # t, keep ratio 1 - P(t), lambda(t), alpha(t)
    (0, 1.000000000, 0.029701, 1.0),
    (1, 0.958010028, 0.058808, 0.891250937),
    (2, 0.920427951, 0.087327, 0.794328233),
    (5, 0.829739671, 0.169416, 0.562341322),
    (9, 0.747426922, 0.271000, 0.354813386),
    (19, 0.648632747, 0.488000, 0.112201843),
    (49, 0.601745761, 0.875000, 0.00354813372),
    (79, 0.600062667, 0.992000, 0.000112201837),
]


@pytest.mark.parametrize(("t", "keep", "hard_share", "decay"), GOLDEN)
def test_golden_values(t, keep, hard_share, decay):
    assert 1 - AsymptoticRate(0.4)(t, 100) == pytest.approx(keep, abs=1e-6)
    assert CubicHardShare()(t, 100) == pytest.approx(hard_share, abs=1e-6)
    assert ExpDecay()(t, 100) == pytest.approx(decay, abs=1e-6)
    assert AsymptoticRate(0.4)(t, 100) == pytest.approx(0.4 * (1 - 4 ** (-8 * t / 100)), abs=1e-12)


@pytest.mark.parametrize("total", TOTALS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_ends_pruned(method, total):
    arguments = preset(method, 0.4)
    rate, decay, hard = (arguments[name] for name in ("rate_schedule", "decay_schedule", "hard_schedule"))
    last = total - 1
    assert (rate(last, total), decay(last, total)) == (0.4, 0.0)
    shares = [hard(t, total) for t in range(total)]
    if ends_hard(method):
        assert shares[-1] == 1
    else:
        assert not any(shares)


@pytest.mark.parametrize("total", TOTALS)
@pytest.mark.parametrize("make", [*(lambda cls=cls: cls(0.7) for cls in RATES), *DECAYS, *HARD_SHARES])
def test_schedules_are_monotone_and_bounded(make, total):
    schedule = make()
    values = [schedule(t, total) for t in range(total)]
    falls = isinstance(schedule, DECAYS)
    assert all(0 <= value <= (0.7 if isinstance(schedule, RATES) else 1) for value in values)
    assert values == sorted(values, reverse=falls)
    assert values[-1] == schedule.end


@pytest.mark.parametrize("snap_at", [0.7, 0.8, 0.9, None])
@pytest.mark.parametrize("total", [10, 20, 30])
def test_snap(snap_at, total):
    begin = round(snap_at * total) if snap_at else total - 1
    for schedule in (CubicRate(0.4, snap_at=snap_at), ExpDecay(snap_at=snap_at), CubicHardShare(snap_at=snap_at)):
        values = [schedule(t, total) for t in range(total)]
        assert values.index(schedule.end) == begin


def test_constants():
    assert [ConstantDecay(0.5)(t, 10) for t in (0, 8, 9)] == [0.5, 0.5, 0]
    assert [ConstantHardShare(0.5)(t, 10) for t in (0, 8, 9)] == [0.5, 0.5, 1]
    assert {ConstantHardShare(0.0)(t, 10) for t in range(10)} == {0}
    assert {ConstantRate(0.3)(t, 10) for t in range(10)} == {0.3}
    assert {ExpDecay(alpha_0=0)(t, 10) for t in range(10)} == {0}
    assert LinearDecay(0.6, snap_at=None)(5, 11) == pytest.approx(0.3)


def test_cosine_hard_share_with_warm_up():
    schedule = CosineHardShare(warmup=0.2)
    assert {schedule(t, 100) for t in range(21)} == {0}
    assert schedule(55, 100) == pytest.approx(0.5)
    assert schedule(90, 100) == 1
    assert CosineHardShare()(30, 100) == pytest.approx(1 - 0.5 * (1 + math.cos(math.pi * 30 / 90)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConstantRate(1.0), r"ConstantRate.rate must be a number in \[0, 1\), got 1.0"),
        (lambda: ConstantRate(-0.1), "got -0.1"),
        (lambda: ConstantRate("0.4"), "got '0.4'"),
        (lambda: CubicRate(math.nan), "got nan"),
        (lambda: AsymptoticRate(0.4, quarter=0.75), r"quarter must be a number in \(0, 0.75\)"),
        (lambda: AsymptoticRate(0.4, snap_at=0), r"snap_at must be a number in \(0, 1\] or None, got 0"),
        (lambda: ExpDecay(alpha_0=2), r"alpha_0 must be a number in \[0, 1\], got 2"),
        (lambda: ExpDecay(sigma=0), "sigma"),
        (lambda: ExpDecay(alpha_0=0.1, sigma=0.2), "sigma"),
        (lambda: CosineHardShare(warmup=0.9), "warmup"),
        (lambda: ConstantHardShare(True), "share"),
        (lambda: ConstantRate(0.4)(10, 10), "t=10 is not one of total=10"),
        (lambda: preset("rfp", 0.4), "method must be one of 'hfp', 'sfp'"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("method", "override", "message"),
    [
        ("sfp", {"rate_schedule": ConstantRate(0.3)}, "rate_schedule of sfp must end at rate=0.4, but is 0.3"),
        ("srfp", {"decay_schedule": lambda t, total: 0.5}, "decay_schedule of srfp must end at 0"),
        ("hfp", {"hard_schedule": ConstantHardShare(0)}, "hard_schedule of hfp must end at 1, but is 0"),
        ("fpgm", {"hard_schedule": lambda t, total: 0.9}, "hard_schedule of fpgm must end at 1, but is 0.9"),
        ("ghfp-sfp", {"hard_schedule": ConstantHardShare(0)}, "hard_schedule of ghfp-sfp must end at 1"),
        ("asrfp", {"hard_schedule": CubicHardShare()}, "hard_schedule of asrfp must be 0 throughout, but is up to 1"),
        ("ghfp-sfp", {"rate_schedule": lambda t, total: 1.5}, r"rate_schedule of ghfp-sfp must stay in \[0, 1\]"),
        # not the number of steps that it happens to be tried with
        ("sfp", {"decay_schedule": lambda t, total: float(t < 9)}, "last of 1 steps"),
    ],
)
def test_schedules_that_do_not_end_where_they_must(method, override, message):
    with pytest.raises(ValueError, match=message):
        preset(method, 0.4, **override)
