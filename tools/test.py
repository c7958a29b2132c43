"""The command ``mmkdprune test``, from a checkout."""

from start import start

start("test")
