"""Average RoIAlign on a CPU as the product of a sparse matrix with the features.

The weights with which a bin samples the pixels are the same for all channels. Written as a matrix of bins by pixels, a
product sums whole rows of channels at once; a kernel that goes through bins and channels one value at a time, like
torchvision's, takes several times as long.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .sampling import bilinear_corners, bins_of, groups_of_equal_size, sample_counts, sample_places, used_pixels

# Entries of the matrix that are made at once: about 100 MB with all that is needed to make them.
ENTRIES = 1 << 20
# The product also moves every pixel to another layout. Few samples of a large map are cheaper one by one, and their
# gradient by the pixels that they read.
PIXELS_PER_SAMPLE = 4


def pays_off(features_shape: torch.Size, regions: Tensor, settings: tuple) -> bool:
    """Tell whether the product is the faster form; it is for a CPU.

    Args:
        features_shape (torch.Size): (N, C, H, W).
        regions (Tensor): Regions (R, 5).
        settings (tuple): Bins downwards and sideways, spatial scale, sampling ratio, aligned.
    """
    if regions.device.type != "cpu" or not len(regions):
        return False
    bins, counts = settings[0], _counts(regions, settings)
    samples = bins[0] * bins[1] * int(counts.clamp(min=0).prod(dim=1).sum())
    return samples * PIXELS_PER_SAMPLE > features_shape[0] * features_shape[2] * features_shape[3]


def pool(features: Tensor, regions: Tensor, settings: tuple) -> Tensor:
    """Return the averages (R, C, bins, bins); arguments as in :func:`pays_off`, with the features themselves."""
    count, channels, height, width = features.shape
    pixels = features.permute(0, 2, 3, 1).reshape(-1, channels)
    pooled = features.new_zeros(len(regions), settings[0][0] * settings[0][1], channels)
    by_bin = pooled.view(-1, channels)
    for bins, places, weights in _entries((count, height, width), regions, settings):
        by_bin += _product(bins, places, weights, len(by_bin), pixels)
    return pooled.transpose(1, 2).unflatten(2, settings[0])


def spread(gradient: Tensor, regions: Tensor, features_shape: torch.Size, settings: tuple) -> Tensor:
    """Return the gradient (N, C, H, W) by the features, given that by the averages (R, C, bins, bins)."""
    count, channels, height, width = features_shape
    by_bin = gradient.flatten(2).transpose(1, 2).reshape(-1, channels)
    total = gradient.new_zeros(count * height * width, channels)
    for bins, places, weights in _entries((count, height, width), regions, settings):
        total += _product(places, bins, weights, len(total), by_bin)
    return total.view(count, height, width, channels).permute(0, 3, 1, 2)


def add_few(gradient: Tensor, regions: Tensor, grad_input: Tensor, settings: tuple) -> None:
    """Add what :func:`spread` returns, to the pixels alone that the samples read: for few samples of a large map."""
    count, channels, height, width = grad_input.shape
    by_bin = gradient.flatten(2).transpose(1, 2).reshape(-1, channels)
    by_pixel = grad_input.view(count, channels, -1)
    for bins, places, weights in _entries((count, height, width), regions, settings):
        image, pixel, numbers = used_pixels(places, height * width)
        by_pixel[image, :, pixel] += _product(numbers, bins, weights, len(pixel), by_bin).to(grad_input)


def _product(rows: Tensor, columns: Tensor, weights: Tensor, count: int, values: Tensor) -> Tensor:
    indices, shape = torch.stack((rows, columns)), (count, len(values))
    check = torch.sparse.check_sparse_tensor_invariants
    # The check is left as it is, but said: PyTorch warns where nobody chose. Autocast would round the values.
    with check(check.is_enabled()), torch.autocast("cpu", enabled=False):
        return torch.sparse.mm(torch.sparse_coo_tensor(indices, weights, shape), values)


def _counts(regions: Tensor, settings: tuple) -> Tensor:
    bins, spatial_scale, sampling_ratio, aligned = settings
    return sample_counts(bins_of(regions, bins, spatial_scale, aligned)[1], sampling_ratio)


def _entries(size: tuple[int, int, int], regions: Tensor, settings: tuple) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Bin, pixel and weight of the matrix's entries, in chunks; pairs may come more than once."""
    _, height, width = size
    bins, spatial_scale, sampling_ratio, aligned = settings
    corners, bin_sizes = bins_of(regions, bins, spatial_scale, aligned)
    counts = sample_counts(bin_sizes, sampling_ratio)
    close = sampling_ratio <= 0
    held: list[tuple[Tensor, Tensor, Tensor]] = []
    for chosen, counts_yx in groups_of_equal_size(counts, 4 * bins[0] * bins[1], ENTRIES):
        ys, xs = sample_places(corners[chosen], bin_sizes[chosen], bins, counts_yx)
        rows, of_row = _weights_of_pixels(ys, height, close)
        columns, of_column = _weights_of_pixels(xs, width, close)
        weights = of_row[:, :, None, :, None] * of_column[:, None, :, None]
        first = (regions[chosen, 0].long() * height * width).view(-1, 1, 1, 1, 1)
        places = first + rows[:, :, None, :, None] * width + columns[:, None, :, None]
        numbers = (chosen * (bins[0] * bins[1]))[:, None] + torch.arange(bins[0] * bins[1])
        of_bin = numbers.view(-1, *bins, 1, 1).expand(places.shape)
        held.append((of_bin.flatten(), places.flatten(), weights.flatten()))
        if sum(len(each[2]) for each in held) >= ENTRIES:
            yield _joined(held)
            held = []
    if held:
        yield _joined(held)


def _joined(held: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    bins, places, weights = (torch.cat(parts) for parts in zip(*held, strict=True))
    return bins, places, weights


def _weights_of_pixels(places: Tensor, size: int, close: bool) -> tuple[Tensor, Tensor]:
    """Pixels (R, bins, K) along one axis that a bin samples, and the mean weight of each.

    Args:
        places (Tensor): Places of the samples (R, bins, samples).
        size (int): Pixels along the axis.
        close (bool): Whether neighbouring samples are at most a pixel apart: they share pixels, and a bin has only one
            more of them than samples.
    """
    samples = places.shape[-1]
    if not close or samples == 1:
        (lower, by_lower), (upper, by_upper) = bilinear_corners(places, size)
        return torch.cat((lower, upper), dim=-1), torch.cat((by_lower, by_upper), dim=-1) / samples
    inside = (places >= -1) & (places <= size)
    clamped = places.clamp(0, size - 1)
    pixels = clamped[..., :1].floor() + torch.arange(samples + 1).to(places)
    weights = (1 - (clamped[..., None, :] - pixels[..., None]).abs()).clamp(min=0) * inside[..., None, :]
    return pixels.clamp(max=size - 1).long(), weights.mean(dim=-1)
