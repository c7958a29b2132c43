"""The command ``mmkdprune demo``, from a checkout."""

from start import start

start("demo")
