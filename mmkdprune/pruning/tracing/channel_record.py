"""What is learned when single channels are followed through a network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class Dim(NamedTuple):
    """One dimension of a layer's weights, along which channels can be removed.

    Attributes:
        layer: Module name.
        side: ``'out'``: the first dimension of its parameters and statistics. ``'in'``: the channels it reads, those of
            all groups of a grouped convolution one after the other.
    """

    layer: str
    side: str


@dataclass
class Use:
    """Channels that a layer sums over.

    Attributes:
        layer: Name of the layer.
        labels: Labels of its input channels, int64, (C_in,).
        zero: Whether these channels are zero, bool, (C_in,).
    """

    layer: str
    labels: Tensor
    zero: Tensor


@dataclass
class FlowRecord:
    """Facts that were learned from one or several forward passes.

    Attributes:
        dims: Labels along each dimension that can shrink, int64.
        zero_filters: For every layer that makes channels, which of its filters are zero, bool, (C_out,).
        followers: Depthwise convolutions: their channels are those that they read.
        uses: Every layer that sums over channels.
        ties: Pairs of label tensors of one shape: channels that meet in an elementwise operation.
        pinned: Labels that must stay, with the reason.
        parts: Lists of label tensors of which equally many must be removed: the groups of grouped convolutions.
        shifted: Labels of zeros that turned into something else, with the reason.
        refused: Those where that happened to the output of one convolution or in an activation: there the pruning is
            at fault, elsewhere it may be chance that several layers' zeros met.
        readers: For every convolution, what its output goes into: BatchNorm names, '' for anything else.
        zero_after: For every BatchNorm, where its output is zero, bool.
        nonzero: Where weights connect channels, by name and version: of :func:`.labels.nonzero_kernels`.
        image: Labels of the image's channels; None before the first pass.
        number: Number of labels.
    """

    dims: dict[Dim, Tensor] = field(default_factory=dict)
    zero_filters: dict[str, Tensor] = field(default_factory=dict)
    followers: set[str] = field(default_factory=set)
    uses: list[Use] = field(default_factory=list)
    ties: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    pinned: list[tuple[Tensor, str]] = field(default_factory=list)
    parts: list[list[Tensor]] = field(default_factory=list)
    shifted: list[tuple[Tensor, str]] = field(default_factory=list)
    refused: list[tuple[Tensor, str]] = field(default_factory=list)
    readers: dict[str, list[str]] = field(default_factory=dict)
    zero_after: dict[str, Tensor] = field(default_factory=dict)
    nonzero: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    image: Tensor | None = None
    number: int = 0

    def labels(self, dim: Dim, size: int) -> Tensor:
        """Labels along a dimension, new ones when it is met for the first time."""
        if dim not in self.dims:
            self.dims[dim] = self.fresh(size)
        return self.dims[dim]

    def fresh(self, size: int) -> Tensor:
        """New labels, (size,)."""
        self.number += size
        return torch.arange(self.number - size, self.number)

    def pin(self, labels: Tensor, reason: str) -> None:
        """Note channels that must stay."""
        self.pinned.append((labels.flatten().unique(), reason))

    def tie(self, first: Tensor, second: Tensor) -> None:
        """Note channels that are one and the same, pair by pair."""
        if first is not second:
            self.ties.append((first.flatten(), second.flatten()))
