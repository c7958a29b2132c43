"""The command ``mmkdprune transfer``, from a checkout."""

from start import start

start("transfer")
