"""Numbers of channels that come out of composed modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..forward import flat


@contextmanager
def observed_widths(network: nn.Module) -> Iterator[dict[str, int]]:
    """Note, while the network runs, how many channels come out of its composed modules (their last output)."""
    widths: dict[str, int] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            last = next((value for value in reversed(flat(output)) if isinstance(value, Tensor)), None)
            if last is not None and last.ndim in (2, 4):
                widths[name] = last.shape[1]

        return hook

    composed = [
        (name, module)
        for name, module in network.named_modules()
        if list(module.children()) and not isinstance(module, torch.jit.ScriptModule)
    ]
    handles = [module.register_forward_hook(note(name)) for name, module in composed]
    try:
        yield widths
    finally:
        for handle in handles:
            handle.remove()
