"""Measuring two networks in turns, by a clock that the test sets."""

import itertools

import pytest
import torch
from torch import nn

from mmkdprune.pruning import latency
from mmkdprune.pruning.latency import deployed_seconds, measure_latency

IMAGES = torch.zeros(2, 3, 4, 4)


def networks():
    return nn.Conv2d(3, 4, 1), nn.Conv2d(3, 2, 1)


def clock(dense, *times):
    """A timer: the networks take these seconds in turns, again and again; also a list of what was timed."""
    calls = []
    seconds = {True: itertools.cycle([one for one, _ in times]), False: itertools.cycle([two for _, two in times])}

    def timer(network, images):
        assert not network.training
        assert images is IMAGES
        calls.append(network is dense)
        return next(seconds[network is dense])

    return timer, calls


def test_medians_in_turns():
    dense, small = networks()
    timer, calls = clock(dense, (0.5, 0.25), (0.4, 0.2), (0.6, 0.3))
    found = measure_latency(dense, small, IMAGES, timer)
    assert found == (0.5, 0.0, 0.5, 0.25)
    assert calls == [True, False] * (len(calls) // 2)
    assert len(calls) == 2 * (1 + 9)  # one round warms up
    assert dense.training
    assert small.training


def test_what_slows_both_alike_does_not_count():
    dense, small = networks()
    timer, _ = clock(dense, *[(0.1 * slow, 0.04 * slow) for slow in (1, 5, 2, 9, 3)])
    found = measure_latency(dense, small, IMAGES, timer)
    assert found.share == pytest.approx(0.4)
    assert found.spread == pytest.approx(0, abs=1e-9)


def test_short_passes_are_repeated_more_often():
    dense, small = networks()
    for seconds, rounds in ((1e-6, 200), (0.05, 21), (10.0, 9)):
        timer, calls = clock(dense, (seconds, seconds))
        measure_latency(dense, small, IMAGES, timer)
        assert abs(len(calls) // 2 - 1 - rounds) <= 1, seconds


def test_spread_is_between_quartiles_and_refused_if_large():
    dense, small = networks()
    # shares 0.46, 0.5 and 0.54 are the quartiles
    times = [(1.0, share) for share in (0.1, 0.4, 0.46, 0.475, 0.5, 0.525, 0.54, 0.9, 2.0)]
    timer, _ = clock(dense, *times[1:], times[0])  # the first pair warms up
    assert measure_latency(dense, small, IMAGES, timer).spread == pytest.approx(0.16)
    noisy, _ = clock(dense, *[(1.0, share) for share in (0.2, 0.5, 0.9)])
    with pytest.raises(
        ValueError, match=r"target.latency: the measured latency differs by .*% between 9 rounds, more than 20%"
    ):
        measure_latency(dense, small, IMAGES, noisy)


def test_the_default_timer_runs_the_network(monkeypatch):
    ran = []
    monkeypatch.setattr(latency, "pass_seconds", lambda *arguments: ran.append(arguments) or 1.0)
    network = nn.Identity()
    assert deployed_seconds(network, IMAGES) == 1.0
    assert ran == [(network, IMAGES, latency.run_deployable)]
