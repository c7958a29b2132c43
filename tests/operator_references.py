"""Detection operators in plain Python, one value after the other, as their papers and MMCV describe them."""

import itertools
import math

import torch


def random_boxes(count, extent, seed):
    """Boxes (count, 4) with their upper left corner within ``extent`` pixels."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * extent
    return torch.cat((corner, corner + 1 + torch.rand(count, 2, generator=generator) * extent / 2), dim=1)


def random_regions(count, images, extent, seed):
    """Regions (count, 5), some of which reach out of the image."""
    index = torch.arange(count)[:, None] % images
    return torch.cat((index, random_boxes(count, extent, seed) - extent / 8), dim=1)


def overlap(one, other, offset, over_union=True):
    def area(box):
        return (box[2] - box[0] + offset) * (box[3] - box[1] + offset)

    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]) + offset)
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]) + offset)
    divisor = area(one) + (area(other) - width * height if over_union else 0)
    return width * height / divisor if divisor else 0.0


def greedy_nms(boxes, scores, threshold, offset):
    kept = []
    for index in sorted(range(len(boxes)), key=lambda index: -scores[index]):
        if all(overlap(boxes[index], boxes[better], offset) <= threshold for better in kept):
            kept.append(index)
    return kept


def greedy_soft_nms(boxes, scores, threshold, sigma, min_score, method, offset):
    """Index and new score of each box that stays, in the order in which they are taken."""
    scores, left, taken = list(scores), list(range(len(boxes))), []
    while left:
        best = max(left, key=lambda index: scores[index])
        taken.append((best, scores[best]))
        left.remove(best)
        for index in left:
            iou = overlap(boxes[best], boxes[index], offset)
            if method == "gaussian":
                scores[index] *= math.exp(-(iou**2) / sigma)
            elif iou >= threshold:
                scores[index] *= 0 if method == "naive" else 1 - iou
        left = [index for index in left if scores[index] >= min_score]
    return taken


def bilinear(image, y, x, border):
    """Value (C,) of an image (C, H, W) between pixels; outside 0, or with ``border`` RoIAlign's rule."""
    height, width = image.shape[1:]
    if border:
        if not (-1 <= y <= height and -1 <= x <= width):
            return torch.zeros_like(image[:, 0, 0])
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    total = torch.zeros_like(image[:, 0, 0])
    for row, column in itertools.product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
        if 0 <= row < height and 0 <= column < width:
            total = total + image[:, row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def roi_align(features, regions, bins, scale, sampling_ratio, mode, aligned):
    rows, columns = bins
    output = features.new_zeros(len(regions), features.shape[1], rows, columns)
    for number, region in enumerate(regions.tolist()):
        image = features[int(region[0])]
        left, top, right, bottom = (value * scale - (0.5 if aligned else 0) for value in region[1:])
        width, height = right - left, bottom - top
        if not aligned:
            width, height = max(width, 1), max(height, 1)
        in_y = sampling_ratio or math.ceil(height / rows)
        in_x = sampling_ratio or math.ceil(width / columns)
        for row, column in itertools.product(range(rows), range(columns)):
            values = [
                bilinear(
                    image,
                    top + (row + (i + 0.5) / in_y) * height / rows,
                    left + (column + (j + 0.5) / in_x) * width / columns,
                    border=True,
                )
                for i, j in itertools.product(range(in_y), range(in_x))
            ]
            stacked = torch.stack(values)
            output[number, :, row, column] = stacked.amax(0) if mode == "max" else stacked.mean(0)
    return output


def roi_pool(features, regions, bins, scale):
    rows, columns = bins
    height, width = features.shape[2:]
    output = features.new_zeros(len(regions), features.shape[1], rows, columns)
    for number, region in enumerate(regions.tolist()):
        left, top = region[1] * scale, region[2] * scale
        bin_width, bin_height = ((region[3] + 1) * scale - left) / columns, ((region[4] + 1) * scale - top) / rows
        if bin_width <= 0 or bin_height <= 0:
            continue
        for row, column in itertools.product(range(rows), range(columns)):
            y0, y1 = math.floor(row * bin_height + top), math.ceil((row + 1) * bin_height + top)
            x0, x1 = math.floor(column * bin_width + left), math.ceil((column + 1) * bin_width + left)
            window = features[
                int(region[0]), :, max(y0, 0) : min(max(y1, 0), height), max(x0, 0) : min(max(x1, 0), width)
            ]
            if window.numel():
                output[number, :, row, column] = window.amax((1, 2))
    return output


def deform_conv(features, offset, mask, weight, stride, padding, dilation, groups, deform_groups):
    """Every output value as the sum over taps; ``mask`` may be None."""
    count, channels = features.shape[:2]
    filters, _, rows, columns = weight.shape
    height, width = offset.shape[2:]
    columns_of = torch.zeros(count, channels, rows * columns, height, width, dtype=features.dtype)
    offsets = offset.view(count, deform_groups, rows * columns, 2, height, width)
    for n, group, tap, y, x in itertools.product(
        range(count), range(deform_groups), range(rows * columns), range(height), range(width)
    ):
        dy, dx = offsets.detach()[n, group, tap, :, y, x]
        chosen = slice(group * channels // deform_groups, (group + 1) * channels // deform_groups)
        place_y = y * stride - padding + tap // columns * dilation + float(dy)
        place_x = x * stride - padding + tap % columns * dilation + float(dx)
        value = bilinear(features[n, chosen], place_y, place_x, border=False)
        if mask is not None:
            value = value * mask.view(count, deform_groups, rows * columns, height, width)[n, group, tap, y, x]
        columns_of[n, chosen, tap, y, x] = value
    by_group = columns_of.view(count, groups, channels // groups, rows * columns, height, width)
    filters_by_group = weight.view(groups, filters // groups, channels // groups, rows * columns)
    return torch.einsum("ngckhw,gfck->ngfhw", by_group, filters_by_group).flatten(1, 2)
