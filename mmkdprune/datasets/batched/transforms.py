"""Random transforms of whole batches, with the distribution of the per-image ones of MMPretrain and MMCV."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mmcv.transforms
import mmpretrain.datasets.transforms as per_image
import torch
from torch import Tensor

Draws = tuple[Tensor, Tensor]


class _Fill:
    """A value for all channels or one for each, as a tensor that is made once a device."""

    def __init__(self, value: int | Sequence[int]) -> None:
        self.value = value
        self._tensors: dict[tuple, Tensor] = {}

    def of(self, images: Tensor) -> Tensor | int:
        """The value for images, (B, C, H, W): a number, or (C, 1, 1); channels beyond those named get 0."""
        if not isinstance(self.value, Sequence):
            return self.value
        key = (images.device, images.dtype, images.shape[1])
        if key not in self._tensors:
            values = [*self.value, *[0] * (images.shape[1] - len(self.value))]
            self._tensors[key] = torch.tensor(values, dtype=images.dtype, device=images.device).view(-1, 1, 1)
        return self._tensors[key]


class Padding(NamedTuple):
    """Border around an image, in pixels."""

    left: int
    top: int
    right: int
    bottom: int


class BatchTransform:
    """A random transform in two steps, so that what is drawn can be looked at, fixed, or sent to another device.

    :meth:`draw` makes two numbers an image on the CPU, :meth:`__call__` transforms images that may lie elsewhere. The
    numbers are the same on every device.
    """

    def draw(self, number: int, size: tuple[int, int], generator: torch.Generator) -> Draws:
        """Draw what happens to each image.

        Args:
            number (int): Number of images, B.
            size (tuple[int, int]): Their height and width.
            generator (torch.Generator): Source of the numbers, on the CPU.

        Returns:
            tuple[Tensor, Tensor]: Integers, int64, (B,) each; one for the vertical, one for the horizontal.
        """
        raise NotImplementedError

    def __call__(self, images: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
        """Transform a batch.

        Args:
            images (Tensor): uint8, (B, C, H, W); not changed.
            vertical (Tensor): First numbers of :meth:`draw`, on the images' device.
            horizontal (Tensor): Second numbers.

        Returns:
            Tensor: The transformed images, uint8.
        """
        raise NotImplementedError

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Tell the size of the transformed images; refuse a size that cannot be transformed.

        Args:
            size (tuple[int, int]): Height and width before.

        Returns:
            tuple[int, int]: Height and width after.
        """
        return size


class BatchRandomCrop(BatchTransform):
    """Pad every image with a constant and cut a window out at a random place.

    Args:
        crop_size (int | Sequence[int]): Height and width of the window.
        padding (int | Sequence[int], optional): Border on each side; two numbers are left/right and top/bottom, four
            are left, top, right and bottom. Defaults to none.
        pad_if_needed (bool): Pad images that are smaller than the window further. Defaults to False.
        pad_val (int | Sequence[int]): Value of the border, one for all channels or one for each; channels beyond those
            named get 0. Defaults to 0.

    Raises:
        ValueError: From :meth:`output_size`, if the window does not fit into the padded image.
    """

    def __init__(
        self,
        crop_size: int | Sequence[int],
        padding: int | Sequence[int] | None = None,
        pad_if_needed: bool = False,
        pad_val: int | Sequence[int] = 0,
    ) -> None:
        self.crop_size = _pair(crop_size, "crop_size")
        self.padding = _padding(padding)
        self.pad_if_needed = pad_if_needed
        self.fill = _Fill(pad_val)

    def full_padding(self, size: tuple[int, int]) -> Padding:
        """Return the border that images of this size get, ``pad_if_needed`` included."""
        left, top, right, bottom = self.padding
        if self.pad_if_needed:
            vertical = math.ceil(max(0, self.crop_size[0] - size[0] - top - bottom) / 2)
            horizontal = math.ceil(max(0, self.crop_size[1] - size[1] - left - right) / 2)
            left, top, right, bottom = left + horizontal, top + vertical, right + horizontal, bottom + vertical
        return Padding(left, top, right, bottom)

    def padded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of the padded image."""
        border = self.full_padding(size)
        return size[0] + border.top + border.bottom, size[1] + border.left + border.right

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size of the window, which must fit into the padded image."""
        padded = self.padded_size(size)
        if any(window > whole for window, whole in zip(self.crop_size, padded, strict=True)):
            raise ValueError(
                f"RandomCrop: crop_size={self.crop_size} is larger than the padded image, {padded} (images of {size} "
                f"with padding={tuple(self.padding)}): choose a smaller crop_size, more padding, or pad_if_needed=True."
            )
        return self.crop_size

    def draw(self, number: int, size: tuple[int, int], generator: torch.Generator) -> Draws:
        """Draw the upper and the left edge of each window, evenly."""
        padded = self.padded_size(size)
        free = [whole - window for whole, window in zip(padded, self.crop_size, strict=True)]
        top, left = (torch.randint(extent + 1, (number,), generator=generator) for extent in free)
        return top, left

    def __call__(self, images: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
        """Cut the windows with these upper and left edges out of the padded images."""
        padded = self.pad(images)
        number, channels, height, width = padded.shape
        rows, columns = self.crop_size
        image = channels * height * width
        # Every place where a window can start is an entry of a view on the same memory; the choice copies whole rows.
        starts = (number - 1) * image + (height - rows) * width + (width - columns) + 1
        windows = padded.as_strided((starts, channels, rows, columns), (1, height * width, width, 1))
        first = torch.arange(0, number * image, image, device=images.device)
        return windows.index_select(0, first + vertical * width + horizontal)

    def pad(self, images: Tensor) -> Tensor:
        """Surround images, (B, C, H, W), with the border; the result is contiguous."""
        number, channels, height, width = images.shape
        border = self.full_padding((height, width))
        if not any(border):
            return images.contiguous()
        shape = (number, channels, *self.padded_size((height, width)))
        fill = self.fill.of(images)
        padded = fill.expand(shape).contiguous() if isinstance(fill, Tensor) else images.new_full(shape, fill)
        padded[..., border.top : border.top + height, border.left : border.left + width] = images
        return padded


class BatchRandomFlip(BatchTransform):
    """Mirror some of the images.

    Args:
        prob (float | Sequence[float]): Probability of a flip; with several directions it is shared out evenly, or given
            for each.
        direction (str | Sequence[str]): ``'horizontal'`` (default), ``'vertical'``, ``'diagonal'`` (both), or several.
    """

    directions = ("horizontal", "vertical", "diagonal")

    def __init__(self, prob: float | Sequence[float], direction: str | Sequence[str] = "horizontal") -> None:
        names = [direction] if isinstance(direction, str) else list(direction)
        shares = list(prob) if isinstance(prob, Sequence) else [prob / len(names)] * len(names)
        unknown = [name for name in names if name not in self.directions]
        if unknown or len(shares) != len(names) or not 0 <= sum(shares) <= 1:
            raise ValueError(f"RandomFlip: prob={prob!r} and direction={direction!r} do not go together.")
        self.flips = [(name != "horizontal", name != "vertical") for name in names] + [(False, False)]
        self.borders = torch.tensor(list(itertools.accumulate(shares)), dtype=torch.float64)

    def draw(self, number: int, size: tuple[int, int], generator: torch.Generator) -> Draws:
        """Draw whether each image is mirrored top to bottom, and left to right: 0 or 1."""
        place = torch.rand(number, dtype=torch.float64, generator=generator)
        chosen = torch.searchsorted(self.borders, place, right=True)
        vertical, horizontal = torch.tensor(self.flips, dtype=torch.int64)[chosen].unbind(1)
        return vertical, horizontal

    def __call__(self, images: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
        """Mirror the images whose numbers are 1."""
        for axis, chosen, possible in zip((2, 3), (vertical, horizontal), zip(*self.flips, strict=True), strict=True):
            if any(possible):
                # a ^ ((a ^ b) & mask) is b under a mask of ones: three times faster than torch.where on bytes
                mask = chosen.to(torch.uint8).neg().view(-1, 1, 1, 1)
                mirrored = images.flip(axis)
                images = mirrored.bitwise_xor_(images).bitwise_and_(mask).bitwise_xor_(images)
        return images


class BatchCutout(BatchTransform):
    """Fill a rectangle at a random place with a constant; it may reach over the border.

    Args:
        shape (int | Sequence[int]): Height and width of the rectangle.
        pad_val (int | Sequence[int]): The constant, one for all or one a channel. Defaults to 128.
        prob (float): Probability for each image. Defaults to 0.5.
    """

    def __init__(self, shape: int | Sequence[int], pad_val: int | Sequence[int] = 128, prob: float = 0.5) -> None:
        self.shape = _pair(shape, "shape")
        self.fill = _Fill(pad_val)
        self.prob = prob

    def draw(self, number: int, size: tuple[int, int], generator: torch.Generator) -> Draws:
        """Draw the upper and the left edge of each rectangle; an edge below the image stands for no rectangle."""
        top, left = (
            (torch.rand(number, dtype=torch.float64, generator=generator) * whole - part / 2).clamp(min=0).long()
            for whole, part in zip(size, self.shape, strict=True)
        )
        cut = torch.rand(number, dtype=torch.float64, generator=generator) < self.prob
        return torch.where(cut, top, size[0]), left

    def __call__(self, images: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
        """Fill the rectangles with these upper and left edges."""
        inside = []
        for edge, extent, length in zip((vertical, horizontal), images.shape[-2:], self.shape, strict=True):
            place = torch.arange(extent, device=images.device)
            inside.append((place >= edge[:, None]) & (place < edge[:, None] + length))
        cut = (inside[0][:, :, None] & inside[1][:, None, :])[:, None]
        fill = self.fill.of(images)
        return torch.where(cut, fill, images) if isinstance(fill, Tensor) else images.masked_fill(cut, fill)


def _crop(transform: per_image.RandomCrop) -> BatchRandomCrop:
    if transform.pad_if_needed and transform.padding_mode != "constant":
        raise ValueError(
            f"BatchedDataset: RandomCrop pads with padding_mode={transform.padding_mode!r}; in batches it does so with "
            "'constant' only. Use that, or the ordinary data set."
        )
    value = transform.pad_val
    # OpenCV, which pads single images, takes one number as the value of the first channel
    pad_val = [int(value)] if isinstance(value, int | float) and value else value
    return BatchRandomCrop(transform.crop_size, transform.padding, transform.pad_if_needed, pad_val)


def _flip(transform: mmcv.transforms.RandomFlip) -> BatchRandomFlip:
    return BatchRandomFlip(transform.prob, transform.direction)


def _cutout(transform: Any) -> BatchCutout:
    if transform.shape is None:
        raise ValueError("BatchedDataset: Cutout needs a fixed shape (no magnitude_range) to work in batches.")
    return BatchCutout(transform.shape, transform.pad_val, transform.prob)


_COUNTERPARTS: dict[type, Callable[[Any], BatchTransform]] = {
    per_image.RandomCrop: _crop,
    mmcv.transforms.RandomFlip: _flip,
    per_image.Cutout: _cutout,
}


def batched_transform(transform: Any) -> BatchTransform | None:
    """Return the counterpart of a per-image transform.

    Args:
        transform (Any): A transform of MMPretrain or MMCV, built.

    Returns:
        BatchTransform | None: The counterpart; None if there is none.

    Raises:
        ValueError: If there is one, but not with these settings.
    """
    make = _COUNTERPARTS.get(type(transform))
    return None if make is None else make(transform)


def _pair(value: int | Sequence[int], name: str) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(item, int) and item > 0 for item in pair):
        raise ValueError(f"{name} must be a positive integer or two of them (height, width), got {value!r}.")
    return pair[0], pair[1]


def _padding(value: int | Sequence[int] | None) -> Padding:
    numbers = [0] if value is None else [value] if isinstance(value, int) else list(value)
    if len(numbers) not in (1, 2, 4) or not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError(f"padding must be an integer, two (left/right, top/bottom) or four of them, got {value!r}.")
    return Padding(*(numbers * (4 // len(numbers))))
