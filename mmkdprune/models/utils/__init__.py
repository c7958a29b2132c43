"""Small pieces shared by models and losses."""

from .precision import upcast_half

__all__ = ["upcast_half"]
