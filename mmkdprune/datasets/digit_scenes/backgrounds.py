"""What stands behind the digits of a scene: two colours in a pattern, grain, and strokes that are no digit."""

from collections.abc import Callable

import cv2
import numpy as np

_LEVELS = (20, 235)  # of the 8-bit range; strokes go further to both sides
_MOST_DISTRACTORS = 4


def draw_background(random: np.random.RandomState, size: int) -> np.ndarray:
    """Draw a background.

    Args:
        random: Source of all choices.
        size: Height and width in pixels.

    Returns:
        float32, (size, size, 3), from 0 to 255.
    """
    pattern = _PATTERNS[random.randint(len(_PATTERNS))](random, size)[..., None]
    base = random.uniform(*_LEVELS, 3)
    step = random.uniform(15, 70) * random.choice((-1, 1)) * random.uniform(0.5, 1, 3)
    image = (base * (1 - pattern) + np.clip(base + step, *_LEVELS) * pattern).astype(np.float32)
    _draw_distractors(random, image)
    image += random.normal(0, random.uniform(1, 8), image.shape)
    return np.clip(image, 0, 255)


def _gradient(random: np.random.RandomState, size: int) -> np.ndarray:
    ramp = _ramp(random, size)
    return (ramp - ramp.min()) / (ramp.max() - ramp.min())


def _stripes(random: np.random.RandomState, size: int) -> np.ndarray:
    period = random.uniform(0.04, 0.25) * size
    return 0.5 + 0.5 * np.sin(_ramp(random, size) * (2 * np.pi / period))


def _checks(random: np.random.RandomState, size: int) -> np.ndarray:
    period = random.uniform(0.06, 0.25) * size
    rows, columns = (np.floor(_ramp(random, size) / period) for _ in range(2))
    return (rows + columns) % 2


def _clouds(random: np.random.RandomState, size: int) -> np.ndarray:
    cells = int(random.randint(3, 9))
    coarse = random.uniform(0, 1, (cells, cells)).astype(np.float32)
    return np.clip(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), 0, 1)


def _patches(random: np.random.RandomState, size: int) -> np.ndarray:
    pattern = np.zeros((size, size))
    for _ in range(random.randint(2, 7)):
        top, left = (random.uniform(0, 0.9, 2) * size).astype(int)
        height, width = (random.uniform(0.1, 0.6, 2) * size).astype(int)
        pattern[top : top + height, left : left + width] = random.uniform(0, 1)
    return pattern


_PATTERNS: tuple[Callable[[np.random.RandomState, int], np.ndarray], ...] = (
    _gradient, _stripes, _checks, _clouds, _patches,
)  # fmt: skip


def _ramp(random: np.random.RandomState, size: int) -> np.ndarray:
    """Pixels along a random direction."""
    angle = random.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[:size, :size]
    return rows * np.sin(angle) + columns * np.cos(angle)


def _draw_distractors(random: np.random.RandomState, image: np.ndarray) -> None:
    """Lines and arcs as thick as strokes: to tell digits takes more than to find contrast."""
    size = len(image)
    for _ in range(random.randint(_MOST_DISTRACTORS + 1)):
        colour = random.uniform(0, 255, 3).tolist()
        thickness = int(random.randint(1, 2 + size // 40))
        start, end = (random.uniform(0, size, (2, 2))).astype(int).tolist()
        if random.uniform() < 0.5:
            cv2.line(image, start, end, colour, thickness, cv2.LINE_AA)
        else:
            axes = (random.uniform(0.05, 0.3, 2) * size).astype(int).tolist()
            turn, sweep = random.uniform(0, 360), random.uniform(60, 180)
            cv2.ellipse(image, start, axes, turn, 0, sweep, colour, thickness, cv2.LINE_AA)
