"""What the region operators without a kernel of their own share: interpolation weights and work in chunks."""

from collections.abc import Iterator

import torch
from torch import Tensor

# Values gathered at once: 64 MB in single precision.
CHUNK = 1 << 24


def bilinear_corners(places: Tensor, size: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the two pixels between which each place lies along one axis, with their weights.

    RoIAlign's rule: up to one pixel outside the map the border's value holds, beyond it everything is 0.

    Args:
        places (Tensor): Places in pixels, any shape.
        size (int): Pixels along the axis.

    Returns:
        tuple: The lower and the upper pixel, each as index (int64) and weight, of the shape of ``places``.
    """
    inside = (places >= -1) & (places <= size)
    clamped = places.clamp(0, size - 1)
    lower = clamped.long()
    upper = (lower + 1).clamp(max=size - 1)
    share = clamped - lower
    return (lower, (1 - share) * inside), (upper, share * inside)


def groups_of_equal_size(sizes: Tensor, values: int) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """Split regions into groups of the same number of samples, so that none is padded, and those into chunks.

    Args:
        sizes (Tensor): Samples (R, 2) downwards and sideways, int64; regions without samples are left out.
        values (int): Values that one sample in each direction costs.

    Yields:
        tuple: Indices of the regions of a chunk, and their two sizes.
    """
    kinds, kind_of = torch.unique(sizes, dim=0, return_inverse=True)
    for kind, (rows, columns) in enumerate(kinds.tolist()):
        if rows <= 0 or columns <= 0:
            continue
        members = torch.nonzero(kind_of == kind)[:, 0]
        for chunk in members.split(max(1, CHUNK // (values * rows * columns))):
            yield chunk, (rows, columns)
