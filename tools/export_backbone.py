"""The command ``mmkdprune export``, from a checkout."""

from start import start

start("export")
