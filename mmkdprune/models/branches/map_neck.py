"""Necks that make one feature map of several before it is pooled: a part of the network that branches copy, too."""

from typing import Any

from mmpretrain.models.necks import HRFuseScales
from torch import nn

MAP_NECKS = (HRFuseScales,)


def split_neck(neck: Any) -> tuple[Any, list[nn.Module]]:
    """Split a neck into what comes before pooling, and the rest.

    Args:
        neck (nn.Module, optional): The neck of a classifier.

    Returns:
        tuple[nn.Module | None, list[nn.Module]]: The module that fuses feature maps, with ``out_channels``, None where
        there is none; and the modules after it.
    """
    modules = list(neck) if isinstance(neck, nn.Sequential) else [] if neck is None else [neck]
    if modules and isinstance(modules[0], MAP_NECKS):
        return modules[0], modules[1:]
    return None, modules


class FusedMap(nn.Module):
    """The feature map that a neck makes of those of all resolutions.

    Args:
        neck (nn.Module): The neck.
    """

    def __init__(self, neck: nn.Module) -> None:
        super().__init__()
        self.neck = neck

    def forward(self, maps: tuple) -> Any:
        """Return the map, (N, D, h, w)."""
        return self.neck(maps)[-1]
