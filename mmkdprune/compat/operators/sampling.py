"""What the region operators without a kernel of their own share: interpolation and work in chunks."""

from collections.abc import Iterator

import torch
from torch import Tensor

# Values gathered at once: 64 MB in single precision.
CHUNK = 1 << 24


def check_regions(regions: Tensor, images: int) -> None:
    """Refuse regions with which kernels on a CPU would read memory that is not theirs.

    On a GPU this is not looked at: it would wait for the device at every call.

    Args:
        regions (Tensor): Regions (R, 5): index of the image, then x1, y1, x2, y2.
        images (int): Images in the batch.

    Raises:
        ValueError: A coordinate is NaN or infinite, or an index names no image.
    """
    if regions.device.type != "cpu" or not len(regions):
        return
    if not regions.isfinite().all():
        raise ValueError(
            "regions of interest have NaN or infinite coordinates: the training has diverged. Lower the learning rate "
            "or clip the gradients (optim_wrapper=dict(clip_grad=dict(max_norm=35)))"
        )
    first, last = (int(index) for index in regions[:, 0].aminmax())
    if first < 0 or last >= images:
        raise ValueError(f"regions of interest name images {first} to {last} of a batch that has 0 to {images - 1}")


def sample_bilinear(features: Tensor, images: Tensor, ys: Tensor, xs: Tensor) -> Tensor:
    """Return interpolated values (R, …, C) at places inside and around the feature maps.

    Args:
        features (Tensor): Features (N, C, H, W).
        images (Tensor): Index (R,) of each region's image, int64.
        ys (Tensor): Places (R, …) in pixels, downwards; broadcast against ``xs``.
        xs (Tensor): Places sideways.
    """
    height, width = features.shape[2:]
    pixels = features.permute(0, 2, 3, 1)
    of_image = images.reshape(-1, *[1] * (ys.ndim - 1))
    corners = [
        pixels[of_image, row, column] * (by_row * by_column)[..., None]
        for row, by_row in bilinear_corners(ys, height)
        for column, by_column in bilinear_corners(xs, width)
    ]
    return corners[0] + corners[1] + corners[2] + corners[3]


def bilinear_corners(places: Tensor, size: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the two pixels between which each place lies along one axis, with their weights.

    RoIAlign's rule: up to one pixel outside the map the border's value holds, beyond it everything is 0. NaN is beyond.

    Args:
        places (Tensor): Places in pixels, any shape.
        size (int): Pixels along the axis.

    Returns:
        tuple: The lower and the upper pixel, each as index (int64) and weight, of the shape of ``places``.
    """
    inside = (places >= -1) & (places <= size)
    clamped = places.masked_fill(~inside, 0).clamp(0, size - 1)
    lower = clamped.detach().long()
    upper = (lower + 1).clamp(max=size - 1)
    share = clamped - lower
    return (lower, (1 - share) * inside), (upper, share * inside)


def used_pixels(places: Tensor, pixels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the images (P,) and the pixels (P,) that are named, each once, and which of them each place is.

    Args:
        places (Tensor): Numbers of pixels, image by image and row by row, int64, any shape.
        pixels (int): How many an image has.
    """
    used, numbers = places.unique(return_inverse=True)
    return used // pixels, used % pixels, numbers


def bins_of(regions: Tensor, bins: tuple[int, int], spatial_scale: float, aligned: bool) -> tuple[Tensor, Tensor]:
    """Return corners and bin sizes of regions, in pixels of the features, (R, 2) each, y before x.

    Args:
        regions (Tensor): Regions (R, 5): index of the image, then x1, y1, x2, y2 in pixels of the image.
        bins (tuple[int, int]): Bins of a region, downwards and sideways.
        spatial_scale (float): Pixels of the features per pixel of the image.
        aligned (bool): Whether pixel centres lie at half coordinates. Without it, regions are at least a pixel wide.
    """
    places = regions[:, 1:] * spatial_scale - (0.5 if aligned else 0.0)
    sizes = places[:, 2:] - places[:, :2]
    if not aligned:
        sizes = sizes.clamp(min=1)
    return places[:, [1, 0]], sizes[:, [1, 0]] / sizes.new_tensor(bins)


def sample_counts(bin_sizes: Tensor, sampling_ratio: int) -> Tensor:
    """Return the number of samples (R, 2) of each region's bins, int64: their pixels rounded up where it is 0."""
    return torch.full_like(bin_sizes, sampling_ratio).long() if sampling_ratio > 0 else bin_sizes.ceil().long()


def sample_places(
    corners: Tensor, bin_sizes: Tensor, bins: tuple[int, int], counts: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return the places of the samples of every bin: (R, bins, samples) downwards and sideways.

    Args:
        corners (Tensor): As :func:`bins_of` returns them.
        bin_sizes (Tensor): Likewise.
        bins (tuple[int, int]): Bins of a region, downwards and sideways.
        counts (tuple[int, int]): Samples of a bin, downwards and sideways.
    """
    places = []
    for axis in (0, 1):
        within = (torch.arange(counts[axis]).to(corners) + 0.5) / counts[axis]
        number = torch.arange(bins[axis]).to(corners)
        start, size = (each[:, axis].reshape(-1, 1, 1) for each in (corners, bin_sizes))
        places.append(start + number[:, None] * size + within * size)
    return places[0], places[1]


def groups_of_equal_size(
    sizes: Tensor, values: int, most: int | None = None
) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """Split regions into groups of the same number of samples, so that none is padded, and those into chunks.

    Args:
        sizes (Tensor): Samples (R, 2) downwards and sideways, int64; regions without samples are left out.
        values (int): Values that one sample in each direction costs.
        most (int, optional): Values of a chunk. Defaults to ``CHUNK``.

    Yields:
        tuple: Indices of the regions of a chunk, and their two sizes.
    """
    kinds, kind_of = torch.unique(sizes, dim=0, return_inverse=True)
    for kind, (rows, columns) in enumerate(kinds.tolist()):
        if rows <= 0 or columns <= 0:
            continue
        members = torch.nonzero(kind_of == kind)[:, 0]
        for chunk in members.split(max(1, (most or CHUNK) // (values * rows * columns))):
            yield chunk, (rows, columns)
