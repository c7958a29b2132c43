"""The command ``mmkdprune linear-probe``, from a checkout."""

from start import start

start("linear-probe")
