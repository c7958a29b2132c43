"""Evaluation and training mode, and back."""

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode for a while.

    Module by module, since ``train()`` and ``eval()`` of some backbones do more than that, or return nothing.
    """
    modes = {module: module.training for module in network.modules()}
    set_evaluation(network)
    try:
        yield
    finally:
        set_modes(network, modes)


def set_evaluation(network: nn.Module) -> None:
    """Put each module of a network into evaluation mode; see :func:`evaluating`."""
    set_modes(network, dict.fromkeys(network.modules(), False))


def set_modes(network: nn.Module, modes: Mapping[nn.Module, bool]) -> None:
    """Put each module of a network into its mode; a frozen TorchScript module has none, and is left alone."""
    for module in network.modules():
        with contextlib.suppress(AttributeError, RuntimeError):
            module.training = modes[module]


def copy_modes(source: nn.Module, target: nn.Module) -> None:
    """Put each module of a network into the mode that the module of the same name has in another network."""
    modes = {name: module.training for name, module in source.named_modules()}
    set_modes(target, {module: modes.get(name, False) for name, module in target.named_modules()})
