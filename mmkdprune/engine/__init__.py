"""What runs beside the model: hooks."""

from .hooks import (
    ChannelsLastHook,
    CheckBatchSizeHook,
    CheckClassesHook,
    DeferredRuntimeInfoHook,
    RandomStateHook,
    TrainOnlyAccuracyHook,
)

__all__ = [
    "ChannelsLastHook",
    "CheckBatchSizeHook",
    "CheckClassesHook",
    "DeferredRuntimeInfoHook",
    "RandomStateHook",
    "TrainOnlyAccuracyHook",
]
