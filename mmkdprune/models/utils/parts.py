"""Parts of a model: those that come from a config of their own, and those that are left alone for a while."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from mmkdprune.registry import MODELS


def build_initialised(config: Mapping[str, Any]) -> nn.Module:
    """Build a part and initialise it at once, by its ``init_cfg`` where it has one.

    Args:
        config (Mapping[str, Any]): Config of the part.

    Returns:
        nn.Module: The part.
    """
    part = MODELS.build(dict(config))
    if getattr(part, "init_cfg", None):
        part.init_weights()
    return part


@contextmanager
def set_aside(model: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Take children out of a model for the time of a ``with`` block.

    Args:
        model (nn.Module): The model.
        names (Sequence[str]): Names of its last children, in order.
    """
    parts = {name: model._modules.pop(name) for name in names}
    try:
        yield
    finally:
        model._modules.update(parts)
