"""What runs beside the model: hooks."""

from .hooks import ChannelsLastHook, CheckClassesHook, RandomStateHook

__all__ = ["ChannelsLastHook", "CheckClassesHook", "RandomStateHook"]
