"""The command ``mmkdprune onnx``, from a checkout."""

from start import start

start("onnx")
