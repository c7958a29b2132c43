"""Scenes of scanned digits for detection and segmentation, without a download."""

from .dataset import DigitScenes
from .files import write_digit_scenes
from .scene import Scene, compose_scene

__all__ = ["DigitScenes", "Scene", "compose_scene", "write_digit_scenes"]
