"""Omniglot: handwritten characters, 20 drawings of each, for learning from few images."""

import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmpretrain.datasets import BaseDataset
from torch import Tensor

from mmkdprune.arguments import checked
from mmkdprune.registry import DATASETS

SPLITS = ("train", "val", "test")
PACKED, SPLIT_FILE = "omniglot_packed.npz", "omniglot_vinyals_split.json"
SIDE = 105  # pixels of a drawing
PARTS = ("images_background", "images_evaluation")


@DATASETS.register_module()
class Omniglot(BaseDataset):
    """32,460 drawings of 1,623 characters from 50 alphabets; ink is white (255) on black, as RGB images.

    Characters are classes, and no class is in two splits: 1,028 are for training, 172 for validation and 423 for
    testing (the split of Vinyals et al.). ``data_root`` holds the split, ``omniglot_vinyals_split.json``
    (``{split: {'background' | 'evaluation': {alphabet: [character, ...]}}}``), and the drawings in one of two forms:

    - ``omniglot_packed.npz``: ``bits``, (32,460, 1,379) bytes with 105 x 105 bits each (1 is ink), and ``paths``, the
      names joined by line feeds and packed by xz;
    - the official folders ``images_background`` and ``images_evaluation``, with ``<alphabet>/<character>/*.png``.

    Sources: Lake et al., "Human-level concept learning through probabilistic program induction", Science 2015; split
    and size: Vinyals et al., "Matching Networks for One Shot Learning", NeurIPS 2016.

    Args:
        data_root (str): Folder of the files above.
        split (str): ``'train'``, ``'val'`` or ``'test'``. Defaults to ``'train'``.
        size (int): Height and width in pixels, made by averaging over areas; at most 105. Defaults to 28.
        rotations (bool): Add every character turned by 90, 180 and 270 degrees as three classes more; class 4 c + k is
            character c turned k times, counter-clockwise. The literature does so for training. Defaults to False.
        pipeline (Sequence[dict]): Transforms; they receive ``img``, uint8, (size, size, 3), and ``gt_label``.
        **kwargs: Further arguments of MMPretrain's ``BaseDataset``.

    Raises:
        ValueError: If split or size is unknown, or the files are not what they should be.
        FileNotFoundError: If the files are missing.
    """

    @checked
    def __init__(
        self, data_root: str = "", split: str = "train", size: int = 28, rotations: bool = False, **kwargs: Any
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"Omniglot: split must be one of {SPLITS}, got {split!r}.")
        if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= SIDE:
            raise ValueError(f"Omniglot: size must be 1 to {SIDE} pixels, got {size!r}.")
        self.split, self.size, self.rotations = split, size, rotations
        characters = _characters(Path(data_root).expanduser(), split)
        turns = ("", "/90", "/180", "/270") if rotations else ("",)
        self._names = {name: number for number, name in enumerate(characters)}
        classes = tuple(f"{'/'.join(name.split('/')[1:])}{turn}" for name in characters for turn in turns)
        kwargs.setdefault("metainfo", {"classes": classes})
        super().__init__(ann_file="", data_root=data_root, test_mode=split != "train", **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return one dict with ``img`` and ``gt_label`` an image of the split."""
        root = Path(self.data_root).expanduser()
        drawings, labels = _read_packed(root, self._names) if (root / PACKED).is_file() else _read(root, self._names)
        absent = np.setdiff1d(np.arange(len(self._names)), labels)
        if len(absent):
            raise ValueError(
                f"Omniglot: {root} has no drawing of {list(self._names)[absent[0]]} ({len(absent)} of "
                f"{len(self._names)} characters of split {self.split!r} are missing): unpack the files again."
            )
        images = resize_drawings(drawings, self.size)
        turns = range(4) if self.rotations else range(1)
        return [
            {
                "img": np.repeat(np.rot90(image, turn)[..., None], 3, axis=2),
                "gt_label": int(label) * len(turns) + turn,
            }
            for image, label in zip(images, labels, strict=True)
            for turn in turns
        ]


def resize_drawings(drawings: np.ndarray, size: int, chunk: int = 4096) -> np.ndarray:
    """Average drawings over areas.

    Args:
        drawings (np.ndarray): 1 where there is ink, (N, 105, 105).
        size (int): Height and width of the result.
        chunk (int): Drawings at a time. Defaults to 4096.

    Returns:
        np.ndarray: uint8, 255 where an area is all ink, (N, size, size).
    """
    parts: list[Tensor] = []
    for start in range(0, len(drawings), chunk):
        ink = torch.from_numpy(drawings[start : start + chunk]).float()[:, None]
        parts.append(F.interpolate(ink * 255, size=(size, size), mode="area")[:, 0].round().to(torch.uint8))
    return torch.cat(parts).numpy()


def _characters(root: Path, split: str) -> list[str]:
    """The characters of a split, as ``images_background/<alphabet>/<character>``, sorted."""
    path = root / SPLIT_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"Omniglot: there is no {path}. data_root must hold {SPLIT_FILE}, and {PACKED} or the official folders "
            f"{' and '.join(PARTS)}."
        )
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))[split]
        found = [
            f"images_{part}/{alphabet}/{character}"
            for part, alphabets in parts.items()
            for alphabet, characters in alphabets.items()
            for character in characters
        ]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"Omniglot: {path} is no split file ({type(error).__name__}: {error}).") from None
    return sorted(found)


def _read_packed(root: Path, names: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Drawings, (N, 105, 105), and labels, (N,), of the wanted characters from the packed file."""
    path = root / PACKED
    try:
        with np.load(path, allow_pickle=False) as packed:
            paths = lzma.decompress(packed["paths"].tobytes()).decode().split("\n")
            numbers = np.array([names.get(name.rsplit("/", 1)[0], -1) for name in paths])
            bits = packed["bits"][numbers >= 0]
        pixels = np.unpackbits(bits, axis=1)[:, : SIDE * SIDE].reshape(-1, SIDE, SIDE)
    except (OSError, ValueError, KeyError, IndexError, lzma.LZMAError) as error:
        raise ValueError(f"Omniglot: {path} is damaged or no packed Omniglot ({error}): copy it again.") from None
    return pixels, numbers[numbers >= 0]


def _read(root: Path, names: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """The same from the official folders, whose pictures are black on white."""
    if not any((root / part).is_dir() for part in PARTS):
        raise FileNotFoundError(
            f"Omniglot: there is neither {root / PACKED} nor a folder {PARTS[0]} or {PARTS[1]} in {root}: unpack "
            f"{PARTS[0]}.zip and {PARTS[1]}.zip of the official repository there."
        )
    from PIL import Image

    drawings, labels = [], []
    for name, number in names.items():
        for file in sorted((root / name).glob("*.png")):
            with Image.open(file) as image:
                drawings.append((np.asarray(image.convert("1")) == 0).astype(np.uint8))
            labels.append(number)
    shapes = {drawing.shape for drawing in drawings}
    if shapes - {(SIDE, SIDE)}:
        raise ValueError(f"Omniglot: drawings in {root} must be {SIDE} x {SIDE} pixels, found {sorted(shapes)}.")
    return np.stack(drawings) if drawings else np.empty((0, SIDE, SIDE), np.uint8), np.asarray(labels, np.int64)
