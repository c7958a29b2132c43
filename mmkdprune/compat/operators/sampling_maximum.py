"""Maximum RoIAlign: the largest of every bin's samples, and where it lies.

Forwards, the channels of a pixel lie side by side, so that ``embedding_bag`` sums whole rows of them. Backwards, every
channel has places of its own.
"""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from . import sampling, sampling_matrix
from .sampling import bins_of, groups_of_equal_size, sample_counts, sample_places, used_pixels

# Values that a processor's cache holds, with what is made of them.
CACHED = 1 << 18
BEYOND = -2.0  # pixels; of a sample there the value is 0


def pool(
    features: Tensor, regions: Tensor, settings: tuple, output: Tensor, argmax_y: Tensor, argmax_x: Tensor
) -> None:
    """Write maxima and their places; a region without samples gets 0 and -1.

    Args:
        features (Tensor): Features (N, C, H, W).
        regions (Tensor): Regions (R, 5): index of the image, then x1, y1, x2, y2 in pixels of the image.
        settings (tuple): Bins downwards and sideways, spatial scale, sampling ratio, aligned.
        output (Tensor): Maxima (R, C, bins, bins).
        argmax_y (Tensor): Place of each in pixels of the features, downwards; like ``output``.
        argmax_x (Tensor): Its place sideways.
    """
    bins, spatial_scale, sampling_ratio, aligned = settings
    size, channels = features.shape[2:], features.shape[1]
    starts = (regions[:, 0].long() * size.numel())[:, None, None]
    corners, bin_sizes = bins_of(regions, bins, spatial_scale, aligned)
    counts = sample_counts(bin_sizes, sampling_ratio)
    without = (counts <= 0).any(dim=1)
    output[without], argmax_y[without], argmax_x[without] = 0, -1, -1
    # Of a large map with few samples, only the pixels that they read are brought side by side.
    few = features.device.type == "cpu" and not sampling_matrix.pays_off(features.shape, regions, settings)
    pixels = None if few else features.permute(0, 2, 3, 1).reshape(-1, channels).contiguous()
    for chosen, counts_yx in groups_of_equal_size(counts, channels * bins[0] * bins[1], _chunk(features)):
        ys, xs = sample_places(corners[chosen], bin_sizes[chosen], bins, counts_yx)
        y, x = torch.broadcast_tensors(ys[:, :, None, :, None], xs[:, None, :, None])
        # (R, bins, samples). On a GPU regions are not checked: what is NaN lies beyond the map.
        y, x = (each.flatten(3).flatten(1, 2).nan_to_num(nan=BEYOND) for each in (y, x))
        first, steps, shares = _share_among_pixels(torch.ones_like(y), y, x, size)
        places = torch.stack([(first + starts[chosen] + step).flatten() for step in steps], dim=1)
        weights = torch.stack([share.flatten() for share in shares], dim=1)
        table = pixels
        if table is None:
            image, pixel, places = used_pixels(places, size.numel())
            table = features.flatten(2)[image, :, pixel]
        samples = embedding_bag(places, table, mode="sum", per_sample_weights=weights).view(*y.shape, channels)
        for target, values in zip((output, argmax_y, argmax_x), _largest(samples, y, x), strict=True):
            by_channel = values.to(target).transpose(1, 2).unflatten(2, bins)
            target.index_copy_(0, chosen, by_channel.expand(-1, channels, -1, -1))


def spread(gradient: Tensor, regions: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor) -> None:
    """Add the gradient by the features to ``grad_input`` (N, C, H, W), given that by the maxima."""
    channels, height, width = grad_input.shape[1:]
    direct = grad_input.dtype == gradient.dtype and grad_input.is_contiguous()
    total = grad_input if direct else torch.zeros(grad_input.shape, dtype=gradient.dtype, device=gradient.device)
    flat = total.view(-1)
    maps = regions[:, 0].long()[:, None] * channels + torch.arange(channels, device=regions.device)
    starts = (maps * (height * width))[:, :, None, None]
    most = max(1, _chunk(gradient) // max(1, gradient[:1].numel()))
    tensors = (gradient, argmax_y.to(gradient), argmax_x.to(gradient), starts)
    for part, y, x, start in zip(*(each.split(most) for each in tensors), strict=True):
        values = part.masked_fill(y == -1, 0)
        first, steps, shares = _share_among_pixels(values, y, x, grad_input.shape[2:])
        places = first.add_(start).flatten()
        for step, share in zip(steps, shares, strict=True):
            flat[step:].scatter_add_(0, places, share.flatten())
    if not direct:
        grad_input += total


def _largest(samples: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The largest (R, bins, C) of samples (R, bins, samples, C), and their places."""
    if samples.shape[2] == 1:
        return samples[:, :, 0], y, x
    largest, place = samples.max(dim=2, keepdim=True)
    of_y, of_x = (each[..., None].expand_as(samples).gather(2, place)[:, :, 0] for each in (y, x))
    return largest[:, :, 0], of_y, of_x


def _chunk(values: Tensor) -> int:
    return min(CACHED, sampling.CHUNK) if values.device.type == "cpu" else sampling.CHUNK


def _share_among_pixels(
    values: Tensor, ys: Tensor, xs: Tensor, size: torch.Size
) -> tuple[Tensor, tuple[int, ...], tuple[Tensor, ...]]:
    """Share values among the four pixels between which their places lie; what lies off the map is lost.

    Returns:
        tuple: Number of the first pixel on a map, how far behind it the four are, and the share of each.
    """
    height, width = size
    values = values * ((ys >= -1) & (ys <= height) & (xs >= -1) & (xs <= width))
    (row, share_below), (column, share_beside) = _pixel_and_share(ys, height), _pixel_and_share(xs, width)
    below, beside = width if height > 1 else 0, 1 if width > 1 else 0
    lower = values * share_below
    upper = values - lower
    right = upper * share_beside, lower * share_beside
    shares = upper - right[0], right[0], lower - right[1], right[1]
    return torch.add(column, row, alpha=width), (0, beside, below, below + beside), shares


def _pixel_and_share(places: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The first of the two pixels between which each place lies along an axis, and the weight of the second.

    The first is never the last of several, so that both are on the map; places beyond it count as on the border.
    """
    clamped = places.clamp(0, size - 1)
    first = clamped.floor().clamp_(max=max(size - 2, 0))
    return first.long(), clamped.sub_(first)
