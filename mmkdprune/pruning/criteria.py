"""Which filters matter least: criteria that score the filters of a layer, the lowest score is pruned first."""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmkdprune.arguments import checked

from .checks import check_choice, check_number


@checked
@dataclass(frozen=True)
class Context:
    """What a criterion may look at besides the filters.

    Args:
        name (str): Name of the layer (in ``group`` coupling of the group's first layer).
        count (int): Number of filters that will be pruned.
        hard (Tensor): True for filters that are hard already, bool, (N,). Their scores do not count: they come first.
        scale (Tensor | None): Absolute BatchNorm scale of each filter, (N,), or None where no BatchNorm follows. In
            ``group`` coupling the root of the summed squares of all BatchNorms.
        derivative (Tensor | None): Mean absolute derivative of the loss by the strength of each filter's channel since
            the step before, (N,), for criteria with ``needs_gradients``, else None. See
            :class:`~mmkdprune.pruning.gradient_record.GradientRecord`.
        masked (Tensor | None): True for filters that the step before has masked, bool, (N,).
        progress (float): Share of the prune steps that are done with this one, in (0, 1].
    """

    name: str
    count: int
    hard: Tensor
    scale: Tensor | None = None
    derivative: Tensor | None = None
    masked: Tensor | None = None
    progress: float = 1.0


Criterion = Callable[[Tensor, Context], Tensor]


def upcast(values: Tensor) -> Tensor:
    """Raise the precision for a ranking that does not depend on the order of summation: float64 on a CPU."""
    return values.double() if values.device.type == "cpu" else values.float() if values.dtype.itemsize < 4 else values


@checked
@dataclass(frozen=True)
class LpNorm:
    """Norm of each flattened filter (SFP, ASFP, SRFP, ASRFP, GHFP: p = 2).

    In ``group`` coupling the filters of all members lie side by side, so that p = 2 gives the root of the summed
    squared norms.

    Args:
        p (float): Order of the norm, at least 1. Defaults to 2.
    """

    p: float = 2.0

    def __post_init__(self) -> None:
        check_number("LpNorm.p", self.p, 1)

    def __call__(self, filters: Tensor, context: Context) -> Tensor:
        """Score filters (N, D); returns (N,)."""
        return torch.linalg.vector_norm(upcast(filters), self.p, dim=1)


@checked
@dataclass(frozen=True)
class GeometricMedian:
    """Sum of distances of a filter to all others: the smallest is closest to the geometric median (FPGM).

    With ``norm_share`` the mixed form of the paper: the first floor(norm_share * count) filters are those of smallest
    norm, the rest of the count is chosen among the others by distance.

    Source: He et al., "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration", CVPR
    2019, section 3.3. Filters that are hard already take no part in the distances.

    Args:
        distance (str): ``'l2'``, ``'l1'`` or ``'cosine'`` (1 - cosine similarity). Defaults to ``'l2'``.
        norm_share (float): Share of the pruned filters chosen by norm, in [0, 1]. The paper's mixture of 0.3 by norm
            and 0.1 by distance is ``rate=0.4, norm_share=0.75``. Defaults to 0.
        p (float): Order of that norm. Defaults to 2.
    """

    distance: str = "l2"
    norm_share: float = 0.0
    p: float = 2.0

    def __post_init__(self) -> None:
        check_choice("GeometricMedian.distance", self.distance, ("l2", "l1", "cosine"))
        check_number("GeometricMedian.norm_share", self.norm_share, 0, 1)
        check_number("GeometricMedian.p", self.p, 1)

    def __call__(self, filters: Tensor, context: Context) -> Tensor:
        """Score filters (N, D); returns (N,)."""
        filters = upcast(filters)
        by_norm = torch.zeros_like(context.hard)
        norms = torch.linalg.vector_norm(filters, self.p, dim=1)
        first = math.floor(context.count * self.norm_share + 1e-9)
        if first:
            order = norms.masked_fill(context.hard, -1).argsort(stable=True)
            by_norm[order[:first]] = True
        # Distances to filters that are hard or chosen by norm do not count.
        scores = (self._distances(filters) * ~(context.hard | by_norm)).sum(1).to(norms.dtype)
        # Below any distance, in the order of the norms.
        return torch.where(by_norm, norms - norms.amax() - 1, scores)

    def _distances(self, filters: Tensor) -> Tensor:
        """Pairwise distances, (N, N)."""
        if self.distance == "cosine":
            unit = torch.nn.functional.normalize(filters, dim=1)
            return 1 - unit @ unit.T
        if self.distance == "l1":
            return torch.cdist(filters, filters, p=1.0)
        # By a matrix product, which is many times faster than the differences themselves and in double precision as
        # good for a ranking.
        wide = filters if filters.device.type == "mps" else filters.double()
        return torch.cdist(wide, wide, compute_mode="use_mm_for_euclid_dist").fill_diagonal_(0)


@checked
@dataclass(frozen=True)
class BatchNormScale:
    """Absolute value of gamma of the BatchNorm that follows a layer."""

    needs_scale = True

    def __call__(self, filters: Tensor, context: Context) -> Tensor:
        """Score filters (N, D); returns (N,)."""
        if context.scale is None:
            raise ValueError(
                f"criterion 'bn_scale' needs a BatchNorm after every pruned layer, but none with a scale follows "
                f"{context.name}: exclude that layer or choose another criterion"
            )
        return context.scale


@checked
@dataclass(frozen=True)
class Taylor:
    """First-order effect of a channel on the loss: |d loss / d scale| of the BatchNorm behind the filter.

    It is averaged over the optimizer steps since the step before, and asks for masked and kept filters alike what a
    little more of the channel would change, so that a masked filter can be seen to be worth more than a kept one; no
    magnitude shows that. Without a trained BatchNorm scale behind it, a filter is judged by the product of its weights
    and their gradients (Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, equation 8,
    whose gates these scales are); a filter of zeros has no such effect.

    What is masked has to grow again from nothing, for which it has less and less time. So its score is multiplied by
    1 - progress / settled, and from ``settled`` on masks only grow, which leaves time to train behind the last one
    (as in Evci et al., "Rigging the Lottery", ICML 2020, section 3, which ends exchange at three quarters of a run).

    Args:
        settled (float): Share of the prune steps after which no masked filter comes back, in (0, 1]. Defaults to 0.75.
    """

    settled: float = 0.75

    needs_gradients: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("Taylor.settled", self.settled, 0, 1, open_low=True)

    def __call__(self, filters: Tensor, context: Context) -> Tensor:
        """Score filters (N, D); returns (N,)."""
        assert context.derivative is not None  # the pruner has it where needs_gradients is set
        if context.masked is None:
            return context.derivative
        left = max(0.0, 1 - context.progress / self.settled)
        if left == 0:  # below all that is kept, in their order
            return torch.where(context.masked, context.derivative - context.derivative.amax() - 1, context.derivative)
        return torch.where(context.masked, context.derivative * left, context.derivative)


@checked
@dataclass(frozen=True)
class Random:
    """A random order for each layer that stays the same through training: the baseline of any criterion.

    Args:
        seed (int): Defaults to 0. The order also depends on the layer's name, not on other random numbers.
    """

    seed: int = 0

    def __call__(self, filters: Tensor, context: Context) -> Tensor:
        """Score filters (N, D); returns (N,)."""
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {context.name}".encode()))
        return torch.rand(len(filters), generator=generator).to(filters.device, non_blocking=True)


CRITERIA: dict[str, Callable[[], Criterion]] = {
    "l1": lambda: LpNorm(1.0),
    "l2": lambda: LpNorm(2.0),
    "fpgm": GeometricMedian,
    "bn_scale": BatchNormScale,
    "taylor": Taylor,
    "random": Random,
}


def get_criterion(criterion: Any) -> Criterion:
    """Return the criterion of a name of ``CRITERIA``; pass a callable on.

    Args:
        criterion (str | Callable): A name, or ``criterion(filters (N, D), context) -> scores (N,)``.

    Raises:
        ValueError: If the name is unknown.
    """
    if callable(criterion):
        return criterion
    check_choice("criterion", criterion, tuple(CRITERIA))
    return CRITERIA[criterion]()


def rank(scores: Tensor, first: Tensor | None = None) -> Tensor:
    """Order filters by score, ties by index.

    Args:
        scores (Tensor): (N,), lowest first.
        first (Tensor | None): True for filters that come first among equal scores, bool, (N,).

    Returns:
        Tensor: Indices, int64, (N,).
    """
    if first is None:
        return scores.argsort(stable=True)
    base = (~first).byte().argsort(stable=True)
    return base[scores[base].argsort(stable=True)]
