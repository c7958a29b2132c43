"""Labels and zeros of one tensor's elements, kept as small as the channels they tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .operators import VIEWS
from .watcher import Call


@dataclass(frozen=True, eq=False)
class Flow:
    """A label and a flag for every element of a tensor; tensors of its shape, expanded wherever nothing differs.

    Attributes:
        labels: int64; elements of one channel have one label.
        zero: bool; whether the element is zero whatever the image.
        source: The convolution whose raw output this is, or ''.
    """

    labels: Tensor
    zero: Tensor
    source: str = ""

    @classmethod
    def along(cls, labels: Tensor, zero: Tensor, dim: int, shape: Sequence[int], source: str = "") -> Flow:
        """A flow whose labels differ along one dimension."""
        view = [1] * len(shape)
        view[dim] = len(labels)
        return cls(labels.view(view).expand(*shape), zero.view(view).expand(*shape), source)

    @property
    def shape(self) -> torch.Size:
        """Shape of the tensor."""
        return self.labels.shape

    @property
    def ndim(self) -> int:
        """Number of its dimensions."""
        return self.labels.ndim

    def varying(self) -> set[int]:
        """Dimensions along which labels differ."""
        return {dim for dim in range(self.ndim) if self.shape[dim] > 1 and self.labels.stride(dim) != 0}

    def is_along(self, dim: int) -> bool:
        """Whether labels and zeros differ along this dimension at most."""
        return self.varying() <= {dim} and all(
            self.zero.stride(other) == 0 or self.shape[other] == 1 for other in range(self.ndim) if other != dim
        )

    def channels(self, dim: int) -> tuple[Tensor, Tensor]:
        """Labels and zeros along a dimension."""
        return vector(self.labels, dim), vector(self.zero, dim)

    def distinct(self) -> Tensor:
        """Labels without repetition along dimensions where they do not differ."""
        labels = self.labels
        for dim in set(range(self.ndim)) - self.varying():
            labels = labels.narrow(dim, 0, 1)
        return labels

    def resized(self, shape: Sequence[int]) -> Flow:
        """The same channels, dimension 1, at another size of everything else."""
        return Flow.along(*self.channels(1), 1, shape)

    def without_zeros(self) -> Flow:
        """The same channels, none of which is known to be zero."""
        return Flow(self.labels, torch.zeros((1,) * self.ndim, dtype=torch.bool).expand(self.shape))

    def all_zero(self) -> Flow:
        """The same channels, all of them zero."""
        return Flow(self.labels, torch.ones((1,) * self.ndim, dtype=torch.bool).expand(self.shape))

    def broadcast(self, shape: Sequence[int]) -> Flow:
        """As PyTorch broadcasts the tensor itself."""
        return self if self.shape == torch.Size(shape) else Flow(self.labels.expand(*shape), self.zero.expand(*shape))


@dataclass(frozen=True, eq=False)
class Unfinished:
    """Labels and zeros of a tensor of constants, of which a part was written over; labels of constants are -1."""

    labels: Tensor
    zero: Tensor


def vector(values: Tensor, dim: int) -> Tensor:
    """The values along one dimension, at index 0 of all others."""
    return values[tuple(slice(None) if other == dim else 0 for other in range(values.ndim))]


def compressed(values: Tensor) -> Tensor:
    """The same values, expanded along every dimension where nothing differs."""
    shape = values.shape
    for dim in range(values.ndim):
        if shape[dim] > 1:
            first = values.narrow(dim, 0, 1)
            if values.stride(dim) == 0 or bool((values == first).all()):
                values = first
    return values.expand(shape)


def index_like(values: Tensor, dims: set[int], keep: bool) -> Tensor:
    """The first entry along dimensions, as a reduction of equal values."""
    for dim in sorted(dims, reverse=True):
        values = values.narrow(dim, 0, 1) if keep else values.select(dim, 0)
    return values


def carry(call: Call, flow: Flow) -> Flow | None:
    """Do to labels and zeros what an operator did to the elements.

    Returns:
        The flow of the result, or None when the operator tore channels apart: took some of them, put them into another
        order or split the dimension they lie along.
    """

    def done(values: Tensor) -> Tensor:
        if call.name in VIEWS:
            return compressed(values.reshape(call.result.shape))
        return compressed(call.func(values, *call.args[1:], **call.kwargs))

    carried = Flow(done(flow.labels), done(flow.zero))
    if len(carried.varying()) > 1:
        return None
    before, after = (one.distinct().flatten() for one in (flow, carried))
    # Flattened together with image positions, every channel comes several times in a row.
    return carried if torch.equal(before, torch.unique_consecutive(after)) else None


def nonzero_kernels(weight: Tensor) -> Tensor:
    """Where a weight connects an output with an input channel, bool, (C_out, C_in / groups)."""
    return ((weight.detach() != 0).flatten(2).any(2) if weight.ndim > 2 else weight.detach() != 0).cpu()


def zero_rows(nonzero: Tensor, zero_inputs: Tensor | None = None, groups: int = 1) -> Tensor:
    """Filters that are zero, or give zero because all they have a weight for is zero, bool, (C_out,).

    Args:
        nonzero: Of :func:`nonzero_kernels`.
        zero_inputs: Input channels that are zero, bool, (C_in,).
        groups: Groups of the convolution.
    """
    if zero_inputs is None:
        return ~nonzero.any(1)
    alive = ~zero_inputs.view(groups, 1, -1)
    return ~(nonzero.view(groups, -1, nonzero.shape[1]) & alive).any(2).flatten()


def zero_values(bias: Tensor | None, size: int) -> Tensor:
    """Where a bias is zero, bool, (size,); everywhere if there is none."""
    return torch.ones(size, dtype=torch.bool) if bias is None else (bias.detach() == 0).cpu()
