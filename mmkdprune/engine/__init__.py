"""What runs beside the model: hooks. Importing this package registers them."""

from . import hooks

__all__ = ["hooks"]
