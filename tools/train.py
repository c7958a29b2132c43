"""The command ``mmkdprune train``, from a checkout."""

from start import start

start("train")
