"""The version of mmkdprune."""

__version__ = "0.1.0"
