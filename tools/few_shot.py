"""The command ``mmkdprune few-shot``, from a checkout."""

from start import start

start("few-shot")
