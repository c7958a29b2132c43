"""Small pieces shared by models and losses."""

from .checks import is_number
from .precision import upcast_half

__all__ = ["is_number", "upcast_half"]
