"""What runs beside the model: hooks."""

from .hooks import (
    ChannelsLastHook,
    CheckBatchSizeHook,
    CheckClassesHook,
    DeferredRuntimeInfoHook,
    FilterPruningHook,
    RandomStateHook,
)

__all__ = [
    "ChannelsLastHook",
    "CheckBatchSizeHook",
    "CheckClassesHook",
    "DeferredRuntimeInfoHook",
    "FilterPruningHook",
    "RandomStateHook",
]
