"""Pruners, schedules and criteria by their names in a config.

They are registered with ``TASK_UTILS``; so is a class of your own that a config names:

    from mmkdprune.registry import TASK_UTILS

    @TASK_UTILS.register_module()
    class MyRate: ...
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from mmkdprune.pruning import (
    BatchNormScale,
    FilterPruner,
    GeometricMedian,
    LpNorm,
    Pruner,
    Random,
    Taylor,
    WeightPruner,
    ZeroKeeper,
    preset,
)
from mmkdprune.pruning.budget import (
    ROUND_TO,
    Budget,
    check_global_target,
    check_target,
    keep_to_target,
    solve_budget,
)
from mmkdprune.pruning.checks import check_number
from mmkdprune.pruning.latency import Timer, deployed_seconds
from mmkdprune.pruning.presets import METHODS, SCHEDULES, check_criterion
from mmkdprune.pruning.schedules.hard_shares import HARD_SHARES
from mmkdprune.pruning.schedules.rates import DECAYS, RATES
from mmkdprune.registry import TASK_UTILS

from .first_process import from_first_process

# What decides beside the target which filters go.
_OF_BUDGETS = (
    *("round_to", "min_keep", "example_input", "scope", "include", "exclude"),
    *("prune_first", "prune_last", "prune_outputs"),
)
_CRITERIA = (LpNorm, GeometricMedian, BatchNormScale, Taylor, Random)
_CLASSES: tuple[type, ...] = (*RATES, *DECAYS, *HARD_SHARES, *_CRITERIA, FilterPruner, WeightPruner, ZeroKeeper)
for _class in _CLASSES:
    TASK_UTILS.register_module(module=_class)


class PrunerBuilder:
    """A pruner's config, checked as far as that is possible without the model.

    Args:
        config (Mapping): ``method`` (a published method's name) or ``type`` (a registered pruner, ``FilterPruner`` by
            default), or both; ``rate`` or ``target``, unless the type has none; and further arguments of the pruner.
            Schedules and criteria are given as ``dict(type=..., ...)``; the ``rate`` of a rate schedule may be left
            out.

    Attributes:
        budget (Budget | None): What a target was found to leave, once a pruner is built.
        timer (Callable): Measures latencies, see :func:`mmkdprune.pruning.solve_budget`.

    Raises:
        ValueError: If a name is unknown or an argument is wrong.
    """

    timer: Timer = staticmethod(deployed_seconds)

    def __init__(self, config: Mapping[str, Any]) -> None:
        if not isinstance(config, Mapping):
            raise ValueError(f"pruner must be a dict such as dict(method='ghfp-asrfp', rate=0.4), got {config!r}")
        arguments = dict(config)
        self.budget: Budget | None = None
        self._target = arguments.pop("target", None)
        if self._target is not None:
            self._config = _with_target(config)
            # All else is checked with some rate.
            arguments = {name: value for name, value in self._config.items() if name != "target"} | {"rate": 0.5}
        self.method = arguments.pop("method", None)
        kind = arguments.pop("type", None)
        if self.method is None and kind is None:
            raise ValueError(f"pruner needs method (one of {', '.join(METHODS)}) or type (a registered pruner)")
        self.kind: Callable[..., Pruner] = find_class("FilterPruner" if kind is None else kind, "pruner.type")
        if self._target is not None and not (isinstance(self.kind, type) and issubclass(self.kind, FilterPruner)):
            raise ValueError(f"pruner.target is for pruners of filters; {self.kind.__name__} needs a rate")
        known = inspect.signature(self.kind).parameters
        if "rate" in arguments:
            check_number("pruner.rate", arguments["rate"], 0, 1, open_high=True)
        elif "rate" in known or self.method is not None:
            raise ValueError(
                "pruner needs a rate, the share of filters to remove (rate=0.4, say), or a target, what the compact "
                "network may cost (target=dict(macs=0.5))"
            )
        for name in SCHEDULES:
            if isinstance(arguments.get(name), Mapping):
                defaults = {"rate": arguments["rate"]} if name == "rate_schedule" else {}
                arguments[name] = build(arguments[name], f"pruner.{name}", **defaults)
        if isinstance(arguments.get("criterion"), Mapping):
            arguments["criterion"] = build(arguments["criterion"], "pruner.criterion")
        if self.method is not None:
            arguments = preset(self.method, **arguments)
            check_criterion(self.method, self.kind, arguments)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
            unknown = sorted(set(arguments) - set(known))
            if unknown:
                raise ValueError(
                    f"pruner: {getattr(self.kind, '__name__', kind)} has no argument {', '.join(map(repr, unknown))}; "
                    f"it has {', '.join(name for name in known if name != 'model')}"
                )
        self.arguments = arguments

    def __call__(
        self, model: nn.Module, saved: Mapping[str, Any] | None = None, image: tuple[int, ...] | None = None
    ) -> Pruner:
        """Build the pruner for a model; rates that meet a target are found first, by the first process for all.

        Args:
            model (nn.Module): The model.
            saved (Mapping, optional): ``Budget.state_dict`` of the run that is resumed; nothing is searched or measured
                then.
            image (tuple[int, ...], optional): Shape (C, H, W) of the run's images, on which a target is counted and
                measured unless the config has an ``example_input``.

        Raises:
            ValueError: If a target cannot be met, or is another one than that of the run that is resumed.
        """
        if self._target is None:
            return self.kind(model, **self.arguments)
        chosen = {name: self.arguments[name] for name in _OF_BUDGETS if name in self.arguments}
        if image is not None and self.needs_image:
            chosen["example_input"] = image
        self.budget = self._saved(saved) if saved is not None else self._solve(model, chosen)
        is_global = self.arguments.get("ranking") == "global"
        rates: dict[str, Any] = {"rate": self.budget.rate}
        if self.budget.rate and not is_global:
            rates["rate_map"] = self.budget.rate_map
        config = {name: value for name, value in self._config.items() if name != "target"}
        pruner = PrunerBuilder(config | rates)(model)
        if is_global and isinstance(pruner, FilterPruner):
            keep_to_target(pruner, model, self._target, chosen.get("example_input"))
        return pruner

    @property
    def needs_image(self) -> bool:
        """Whether it is of use to know the shape of the run's images."""
        return self._target is not None and self.arguments.get("example_input") is None

    def _solve(self, model: nn.Module, chosen: Mapping[str, Any]) -> Budget:
        def solve() -> dict[str, Any]:
            return solve_budget(model, self._target, timer=self.timer, **chosen).state_dict()

        return Budget.from_state(from_first_process(solve))

    def _saved(self, saved: Mapping[str, Any]) -> Budget:
        budget = Budget.from_state(saved)
        if budget.target != dict(self._target):
            raise ValueError(
                f"pruner.target is {dict(self._target)!r} here but was {budget.target!r} in the run to resume: set it "
                "back, or start a new run from its weights (load_from without resume)"
            )
        return budget


def _with_target(config: Mapping[str, Any]) -> dict[str, Any]:
    """A pruner's config with what a target needs."""
    check_target(config["target"])
    for name in ("rate", "rate_map"):
        if config.get(name) is not None:
            raise ValueError(f"pruner.{name} and pruner.target both say how much is removed: give one of them")
    if config.get("ranking") == "global":
        check_global_target(config["target"])
    if config.get("coupling", "group") != "group":
        raise ValueError(
            f"pruner.coupling={config['coupling']!r} leaves it to chance which filters can be removed, so that no "
            "target can be met: take coupling='group' with pruner.target, or a rate"
        )
    return {"round_to": ROUND_TO, **config, "coupling": "group"}


def find_class(name: Any, field: str) -> Any:
    """Look a class up by its registered name (of this package first), or pass a class on.

    Raises:
        ValueError: If nothing of that name is registered.
    """
    if not isinstance(name, str):
        return name
    found = TASK_UTILS.get(name)
    if found is None:
        ours = ", ".join(sorted(TASK_UTILS.module_dict))
        raise ValueError(
            f"{field}: nothing is registered as {name!r} with TASK_UTILS (custom_imports imports a module that does); "
            f"this package has {ours}"
        )
    return found


def build(config: Mapping[str, Any], field: str, **defaults: Any) -> Any:
    """Build a schedule or criterion from its config.

    Args:
        config (Mapping): ``type`` and arguments.
        field (str): Name of the config's field, for messages.
        **defaults: Arguments to add where the class takes them and the config does not set them.

    Raises:
        ValueError: If the type is unknown or does not take the arguments.
    """
    arguments = dict(config)
    kind = find_class(arguments.pop("type", None), field)
    if kind is None:
        raise ValueError(f"{field} needs a type, got {dict(config)!r}")
    known = inspect.signature(kind).parameters if inspect.isclass(kind) else {}
    arguments.update({name: value for name, value in defaults.items() if name in known and name not in arguments})
    try:
        return kind(**arguments)
    except TypeError as error:
        raise ValueError(f"{field}: {error}") from None
