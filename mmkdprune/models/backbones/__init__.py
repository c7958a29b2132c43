"""Backbones of the papers that MMPretrain does not have."""

from .cifar_resnet import CifarResNet, LinearStemResNetCIFAR

__all__ = ["CifarResNet", "LinearStemResNetCIFAR"]
