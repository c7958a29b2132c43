"""The command ``mmkdprune knn``, from a checkout."""

from start import start

start("knn")
