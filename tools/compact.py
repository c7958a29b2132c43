"""The command ``mmkdprune compact``, from a checkout."""

from start import start

start("compact")
