"""How long a compact network takes beside the dense one, measured on this machine."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .complexity import pass_seconds
from .forward import run_deployable
from .modes import evaluating

# Seconds that a network takes for a batch: ``timer(network, images)``.
Timer = Callable[[nn.Module, Tensor], float]
# Largest spread of a measurement that tells anything.
MAX_SPREAD = 0.2
# Rounds of a measurement: at least so many, then until it took so many seconds, but no more than so many.
_FEWEST, _SECONDS, _MOST = 9, 2.0, 200


class Latency(NamedTuple):
    """A measurement of two networks, in turns.

    Attributes:
        share: Time of the compact network, as a share of the dense one's; the median over rounds.
        spread: Distance between the quartiles of that share over the rounds, relative to the median.
        before: Seconds that the dense network takes for a batch, median.
        after: Likewise the compact one.
    """

    share: float
    spread: float
    before: float
    after: float


def deployed_seconds(network: nn.Module, images: Tensor) -> float:
    """Time one pass of a batch through the deployable part of a network: the timer that is used by default.

    Args:
        network (nn.Module): In evaluation mode.
        images (Tensor): (B, C, H, W).
    """
    return pass_seconds(network, images, run_deployable)


def measure_latency(dense: nn.Module, compact: nn.Module, images: Tensor, timer: Timer) -> Latency:
    """Time two networks in turns, so that what else the machine does meets both alike.

    Args:
        dense (nn.Module): The network as it is.
        compact (nn.Module): The one that is compared with it.
        images (Tensor): A batch, (B, C, H, W).
        timer (Callable): ``timer(network, images)``, seconds.

    Returns:
        Latency: Shares and medians.

    Raises:
        ValueError: If the rounds differ so much that they tell nothing.
    """
    rounds: list[tuple[float, float]] = []
    with evaluating(dense), evaluating(compact), torch.no_grad():
        for network in (dense, compact):  # warms up
            timer(network, images)
        while len(rounds) < _FEWEST or (sum(map(sum, rounds)) < _SECONDS and len(rounds) < _MOST):
            rounds.append((timer(dense, images), timer(compact, images)))
    low, share, high = np.quantile([after / before for before, after in rounds], (0.25, 0.5, 0.75)).tolist()
    before, after = (statistics.median(times) for times in zip(*rounds, strict=True))
    found = Latency(share, (high - low) / share, before, after)
    if found.spread > MAX_SPREAD:
        raise ValueError(
            f"target.latency: the measured latency differs by {found.spread:.0%} between {len(rounds)} rounds, more "
            f"than {MAX_SPREAD:.0%}, which tells nothing: let nothing else run on this machine meanwhile, take a "
            "larger target.batch_size, or a target of macs, which needs no measurement"
        )
    return found
