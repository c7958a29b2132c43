"""Parts of a model that come from a config of their own."""

from collections.abc import Mapping
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
