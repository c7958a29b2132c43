"""Numbers of channels that go into composed modules and come out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..forward import flat
from .attributes import Widths


@contextmanager
def observed_widths(network: nn.Module) -> Iterator[Widths]:
    """Note, while the network runs, how many channels go into its composed modules and come out of them."""
    widths = Widths()

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            first = next((value for value in flat(inputs) if isinstance(value, Tensor)), None)
            last = next((value for value in reversed(flat(output)) if isinstance(value, Tensor)), None)
            for value, noted in ((first, widths.read), (last, widths.made)):
                if value is not None and value.ndim in (2, 4):
                    noted[name] = value.shape[1]

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
