"""Numbers in a config that can only end in NaN."""

import math
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from mmkdprune.errors import UsageError


def check_numbers(config: Config) -> None:
    """Refuse a learning rate and a normalisation of images that make NaN.

    Args:
        config (Config): The whole config.

    Raises:
        UsageError: With the field and its value.
    """
    model = config.get("model") or {}
    for field, settings in (
        ("data_preprocessor", config.get("data_preprocessor")),
        ("model.data_preprocessor", model.get("data_preprocessor") if isinstance(model, Mapping) else None),
    ):
        std = settings.get("std") if isinstance(settings, Mapping) else None
        if std is not None and not (isinstance(std, list | tuple) and std and all(map(_is_positive, std))):
            raise UsageError(
                f"{field}.std must be positive numbers, one per channel: images are divided by it, got {std!r}"
            )
    for field, optimizer in _optimizers(config.get("optim_wrapper"), "optim_wrapper"):
        rate = optimizer.get("lr")
        if isinstance(rate, int | float) and not (math.isfinite(rate) and rate >= 0):
            raise UsageError(f"{field}.lr must be a finite number of 0 or more, got {rate!r}")
        if isinstance(rate, str):
            raise UsageError(
                f"{field}.lr must be a number, got the text {rate!r} (1e-3 needs a decimal point in YAML: 1.0e-3)"
            )


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _optimizers(settings: Any, field: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Configs of all optimizers; a wrapper of several has one per name."""
    if not isinstance(settings, Mapping):
        return []
    own = settings.get("optimizer")
    if isinstance(own, Mapping):
        return [(f"{field}.optimizer", own)]
    return [found for name, value in settings.items() for found in _optimizers(value, f"{field}.{name}")]
