"""The command ``mmkdprune pipeline``, from a checkout."""

from start import start

start("pipeline")
