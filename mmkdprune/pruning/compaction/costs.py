"""What layers cost, and how much of that is left when channels go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..forward import Forward
from ..modes import evaluating
from ..tracing.channel_record import Dim

_MULTIPLYING = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


class LayerCosts:
    """Multiply-accumulates and parameters by layer, of one pass.

    Args:
        network (nn.Module): The dense network; unchanged.
        images (Tensor): (B, C, H, W).
        forward (Callable): ``forward(network, images)``.
    """

    def __init__(self, network: nn.Module, images: Tensor, forward: Forward) -> None:
        self._modules = dict(network.named_modules())
        self._macs: dict[str, float] = {}
        names = {module: name for name, module in self._modules.items()}
        handles = [
            module.register_forward_hook(self._counter(names[module]))
            for module in self._modules.values()
            if isinstance(module, _MULTIPLYING)
        ]
        with evaluating(network), torch.no_grad(), FlopCounterMode(display=False) as counter:
            forward(network, images)
        for handle in handles:
            handle.remove()
        self._macs = {name: macs / len(images) for name, macs in self._macs.items()}
        self._rest = counter.get_total_flops() / 2 / len(images) - sum(self._macs.values())

    def _counter(self, name: str) -> Any:
        def count(module: nn.Module, args: Any, output: Tensor) -> None:
            weight = module.weight
            assert isinstance(weight, Tensor)
            self._macs[name] = self._macs.get(name, 0.0) + output.numel() * weight[0].numel()

        return count

    def left(self, shares: Mapping[Dim, float]) -> tuple[float, float]:
        """Cost when only a share of the channels stays.

        Args:
            shares (Mapping[Dim, float]): What stays along a dimension of a layer; 1 where absent.

        Returns:
            tuple[float, float]: Multiply-accumulates of one image, and parameters.
        """
        macs, params = self._rest, 0.0
        for name, module in self._modules.items():
            out, read = shares.get(Dim(name, "out"), 1.0), shares.get(Dim(name, "in"), 1.0)
            if getattr(module, "groups", 1) > 1 and _is_depthwise(module):
                read = 1.0
            macs += self._macs.get(name, 0.0) * out * read
            for attribute, parameter in module.named_parameters(recurse=False):
                both = attribute == "weight" and parameter.ndim > 1
                params += parameter.numel() * out * (read if both else 1.0)
        return macs, params


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels
