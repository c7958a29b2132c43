"""Scenes of scanned digits, with boxes and masks of their strokes. Plain NumPy and OpenCV."""

from dataclasses import dataclass

import cv2
import numpy as np

from mmkdprune.datasets.digits import FULL_INK

from .backgrounds import draw_background

SMALLEST = 32  # pixels; in less there is no room for two digits
_HEIGHTS = (0.14, 0.42)  # of a scan, as shares of the scene
_INK = 0.45  # share of full ink from which a pixel belongs to the stroke
_LEAST_PIXELS = 8
_PLACES_TRIED = 20
_CONTRAST = (70, 150)  # of a stroke against the mean of what it covers, on the scale 0..255
_CHROMA = 30
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Scene:
    """An image of some digits and what is in it.

    Attributes:
        image: RGB, uint8, (size, size, 3).
        labels: The digits, int64, (N,).
        boxes: Left, top, right, bottom in pixels, tight around the strokes, float32, (N, 4); right and bottom are
            outside.
        masks: Pixels of the strokes, bool, (N, size, size); no two overlap.
    """

    image: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    masks: np.ndarray

    @property
    def semantic_map(self) -> np.ndarray:
        """Class of every pixel, uint8, (size, size): 0 is background, 1 + d a stroke of digit d."""
        classes = (self.masks * (1 + self.labels)[:, None, None]).sum(axis=0, initial=0)
        return classes.astype(np.uint8)


def compose_scene(
    scans: np.ndarray, labels: np.ndarray, size: int, num_digits: tuple[int, int], random: np.random.RandomState
) -> Scene:
    """Compose a scene: scans turned, stretched and put in colour on a background.

    A digit for which there is no free place is left out, so there may be fewer than asked for, but never none.

    Args:
        scans: Ink, (N, 8, 8), from 0 to 16.
        labels: Their digits, (N,).
        size: Height and width in pixels.
        num_digits: The least and the most digits.
        random: Source of all choices; equal sources give equal scenes.

    Returns:
        The scene.
    """
    image = draw_background(random, size)
    taken = np.zeros((size, size), dtype=bool)
    found: list[tuple[int, tuple[int, int, int, int], np.ndarray]] = []
    for _ in range(random.randint(num_digits[0], num_digits[1] + 1)):
        index = random.randint(len(scans))
        ink = _transformed(scans[index], size, random)
        place = _free_place(ink.shape, taken, random)
        if place is None:
            continue
        window = (slice(place[0], place[0] + ink.shape[0]), slice(place[1], place[1] + ink.shape[1]))
        stroke = ink > _INK
        _paint(image[window], ink, random)
        taken[window] = True
        mask = np.zeros_like(taken)
        mask[window] = stroke
        found.append((int(labels[index]), _box(mask), mask))
    digits, boxes, masks = zip(*found, strict=True)
    return Scene(image.round().astype(np.uint8), np.array(digits), np.array(boxes, dtype=np.float32), np.stack(masks))


def _transformed(scan: np.ndarray, size: int, random: np.random.RandomState) -> np.ndarray:
    """Ink of an enlarged scan from 0 to 1, cut to where there is any, float32, (height, width)."""
    while True:
        smallest, largest = np.log(_HEIGHTS)
        scale = np.exp(random.uniform(smallest, largest)) * size / len(scan)
        angle = np.radians(random.uniform(-15, 15))
        stretch = random.uniform(0.8, 1.2)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = scale * turn @ np.diag([stretch, 1 / stretch])
        extent = int(np.ceil(1.6 * scale * len(scan)))
        shift = (extent - 1) / 2 - matrix @ np.full(2, (len(scan) - 1) / 2)
        warp = np.column_stack([matrix, shift])
        ink = cv2.warpAffine((scan / FULL_INK).astype(np.float32), warp, (extent, extent), flags=cv2.INTER_CUBIC)
        ink = np.clip(ink, 0, 1)
        if (ink > _INK).sum() >= _LEAST_PIXELS:
            rows, columns = (np.flatnonzero((ink > 0.05).any(axis=axis)) for axis in (1, 0))
            return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _free_place(shape: tuple[int, ...], taken: np.ndarray, random: np.random.RandomState) -> tuple[int, int] | None:
    """Top and left corner of a window of this shape in which no digit is yet."""
    height, width = shape
    for _ in range(_PLACES_TRIED):
        top, left = (random.randint(limit - extent + 1) for limit, extent in zip(taken.shape, shape, strict=True))
        if not taken[top : top + height, left : left + width].any():
            return top, left
    return None


def _paint(window: np.ndarray, ink: np.ndarray, random: np.random.RandomState) -> None:
    """Lay a stroke over what is in the window, lighter or darker than that."""
    behind = window.mean(axis=(0, 1)) @ _LUMA
    contrast = random.uniform(*_CONTRAST)
    lighter = behind + contrast <= 255 and (random.uniform() < 0.5 or behind - contrast < 0)
    level = behind + contrast if lighter else max(behind - contrast, 0)
    colour = np.clip(level + random.uniform(-_CHROMA, _CHROMA, 3), 0, 255)
    window += ink[..., None] * (colour - window)


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
