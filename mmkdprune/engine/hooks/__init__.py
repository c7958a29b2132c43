"""Hooks of scope ``mmkdprune``."""

from .channels_last_hook import ChannelsLastHook
from .check_classes_hook import CheckClassesHook
from .random_state_hook import RandomStateHook

__all__ = ["ChannelsLastHook", "CheckClassesHook", "RandomStateHook"]
