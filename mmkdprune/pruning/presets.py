"""The papers' methods by name: the same engine with other schedules."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from mmkdprune.arguments import checked

from .checks import check_choice, check_number
from .filter_pruner import FilterPruner
from .pruner import Pruner
from .schedules.hard_shares import ConstantHardShare, CubicHardShare
from .schedules.position import ScheduleFunction, Schedules
from .schedules.rates import AsymptoticRate, ConstantDecay, ConstantRate, ExpDecay
from .weight_pruner import WeightPruner

# Schedule of the pruning rate, of the decay, of the hard share.
_Preset = tuple[Callable[[float], ScheduleFunction], Callable[[], ScheduleFunction], Callable[[], ScheduleFunction]]
_PRESETS: dict[str, _Preset] = {
    "hfp": (ConstantRate, ConstantDecay, ConstantHardShare),
    "sfp": (ConstantRate, ConstantDecay, lambda: ConstantHardShare(0.0)),
    "asfp": (AsymptoticRate, ConstantDecay, lambda: ConstantHardShare(0.0)),
    "srfp": (ConstantRate, ExpDecay, lambda: ConstantHardShare(0.0)),
    "asrfp": (AsymptoticRate, ExpDecay, lambda: ConstantHardShare(0.0)),
    "ghfp-sfp": (ConstantRate, ConstantDecay, CubicHardShare),
    "ghfp-asfp": (AsymptoticRate, ConstantDecay, CubicHardShare),
    "ghfp-srfp": (ConstantRate, ExpDecay, CubicHardShare),
    "ghfp-asrfp": (AsymptoticRate, ExpDecay, CubicHardShare),
    "fpgm": (ConstantRate, ConstantDecay, ConstantHardShare),
}
METHODS = tuple(_PRESETS)
SCHEDULES = ("rate_schedule", "decay_schedule", "hard_schedule")


def ends_hard(method: str) -> bool:
    """Whether a method ends with all pruned filters hard (HFP, GHFP, FPGM), or is soft throughout."""
    return method in ("hfp", "fpgm") or method.startswith("ghfp-")


@checked
def preset(method: str, rate: float, **overrides: Any) -> dict[str, Any]:
    """Arguments of a pruner for a method.

    Args:
        method (str): One of ``METHODS``.
        rate (float): Target pruning rate in [0, 1).
        **overrides: Further arguments of the pruner; schedules among them replace the method's own.

    Returns:
        dict: ``rate``, the three schedules, ``criterion`` for FPGM, and the overrides.

    Raises:
        ValueError: If the method is unknown, or a schedule does not end where the method's must.
    """
    check_choice("method", method, METHODS)
    check_number("rate", rate, 0, 1, open_high=True)
    rate_schedule, decay_schedule, hard_schedule = _PRESETS[method]
    arguments: dict[str, Any] = {
        "rate": rate,
        "rate_schedule": rate_schedule(rate),
        "decay_schedule": decay_schedule(),
        "hard_schedule": hard_schedule(),
        **({"criterion": "fpgm"} if method == "fpgm" else {}),
        **overrides,
    }
    Schedules(*(arguments[name] for name in SCHEDULES)).check(rate, ends_hard(method), method)
    return arguments


@checked
def make_pruner(
    model: nn.Module, method: str, rate: float, pruner: Callable[..., Pruner] = FilterPruner, **overrides: Any
) -> Pruner:
    """Build the pruner of a published method.

    =============== ======================= ======================== =========================
    method          pruning rate P(t)       decay alpha(t)           hard share lambda(t)
    =============== ======================= ======================== =========================
    ``hfp``         ``ConstantRate``        \u2014                        1
    ``sfp``         ``ConstantRate``        0                        0
    ``asfp``        ``AsymptoticRate``      0                        0
    ``srfp``        ``ConstantRate``        ``ExpDecay``             0
    ``asrfp``       ``AsymptoticRate``      ``ExpDecay``             0
    ``ghfp-<base>`` as the base             as the base              ``CubicHardShare``
    ``fpgm``        ``ConstantRate``        \u2014                        1, by geometric median
    =============== ======================= ======================== =========================

    Sources: SFP (IJCAI 2018), ASFP (IEEE Transactions on Cybernetics 2019), FPGM (CVPR 2019), SRFP and ASRFP (arXiv
    2010.09498), GHFP (arXiv 2011.03170).

    Args:
        model (nn.Module): The model to prune.
        method (str): A method of the table.
        rate (float): Target pruning rate in [0, 1).
        pruner (Callable): Class of the pruner. Defaults to :class:`FilterPruner`; ``WeightPruner`` prunes single
            weights along the same schedules.
        **overrides: Further arguments of the pruner.

    Returns:
        Pruner: The pruner.

    Raises:
        ValueError: If the method is unknown, or an argument is out of range.

    Examples:
        >>> pruner = make_pruner(model, 'ghfp-asrfp', rate=0.4)
        >>> for epoch in range(100):
        ...     for batch in loader:
        ...         ...  # forward, backward, optimizer.step()
        ...         pruner.enforce(optimizer)
        ...     pruner.step(epoch, 100)
        ...     pruner.enforce(optimizer)
        >>> pruner.finalize()
    """
    if isinstance(pruner, type) and not issubclass(pruner, Pruner):
        raise ValueError(f"pruner must be a class of pruners, such as FilterPruner or WeightPruner, got {pruner!r}")
    arguments = preset(method, rate, **overrides)
    check_criterion(method, pruner, arguments)
    return pruner(model, **arguments)


def check_criterion(method: str, pruner: Callable[..., Pruner], arguments: Mapping[str, Any]) -> None:
    """Refuse a criterion for single weights.

    Raises:
        ValueError: If a method or a call sets one for ``WeightPruner``.
    """
    if "criterion" in arguments and pruner is WeightPruner:
        raise ValueError(
            f"WeightPruner ranks single weights by magnitude and has no criterion, which method={method!r} or the call "
            "sets: take another method, 'hfp' say"
        )
