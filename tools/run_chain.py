"""The command ``mmkdprune chain``, from a checkout."""

from start import start

start("chain")
