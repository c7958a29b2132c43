"""``DigitScenes``: a data set for detectors and segmentors that is in no file."""

from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset

from mmkdprune.arguments import checked
from mmkdprune.datasets.digits import read_scans
from mmkdprune.registry import DATASETS

from .scene import SMALLEST, Scene, compose_scene

TASKS = ("detection", "segmentation")
# The number tells the random streams of the two splits apart.
SPLITS = {"train": (0, "train"), "val": (1, "test")}
DEFAULT_SCENES = {"train": 400, "val": 200}
_KEPT_BYTES = 128 * 2**20
DIGITS = tuple(str(digit) for digit in range(10))
PALETTE = (
    (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48),
    (145, 30, 180), (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212),
)  # fmt: skip
METAINFO = {
    "detection": {"classes": DIGITS, "palette": list(PALETTE)},
    "segmentation": {"classes": ("background", *DIGITS), "palette": [(0, 0, 0), *PALETTE]},
}


@DATASETS.register_module()
class DigitScenes(BaseDataset):
    """Digits scattered over varied backgrounds, for MMDetection and MMSegmentation, without a download.

    Scenes are composed when they are asked for, from scikit-learn's scans of handwritten digits: strokes of random
    place, size, slant and colour, on gradients, stripes, checks, clouds or patches, among lines that are no digit.
    The same ``split``, ``size``, ``num_digits`` and ``seed`` give the same scenes. Training scenes are made of the
    training scans of :class:`Digits`, validation scenes of its test scans: no scan is in both.

    A pipeline starts with ``LoadImageFromNDArray`` of the package that trains. For detection ``LoadAnnotations``
    follows, which reads boxes and, with ``with_mask=True``, masks; the evaluator is ``CocoMetric`` without
    ``ann_file``, which needs ``instances`` among the ``meta_keys`` of ``PackDetInputs``. For segmentation the map of
    classes is loaded already.

    Args:
        task (str): ``'detection'`` (10 classes) or ``'segmentation'`` (background and 10 classes of strokes).
        split (str): ``'train'`` or ``'val'``. Defaults to ``'train'``.
        num_scenes (int, optional): Number of scenes. Defaults to 400 for training, 200 for validation.
        size (int): Height and width in pixels, at least 32. Defaults to 128.
        num_digits (tuple[int, int]): The least and the most digits of a scene. Defaults to (4, 10).
        seed (int): Another number gives other scenes, of the same scans. Defaults to 0.
        pipeline (Sequence[dict]): Transforms; they receive ``img``, BGR as from a file, uint8, (size, size, 3), and
            ``instances`` or ``gt_seg_map``.
        **kwargs: Further arguments of MMEngine's ``BaseDataset``.

    Raises:
        ValueError: If an argument has no such value.
        ImportError: If scikit-learn is missing.
    """

    @checked
    def __init__(
        self,
        task: str,
        split: str = "train",
        num_scenes: int | None = None,
        size: int = 128,
        num_digits: tuple[int, int] = (4, 10),
        seed: int = 0,
        metainfo: dict | None = None,
        **kwargs: Any,
    ) -> None:
        _check(task, split, num_scenes, size, num_digits, seed)
        self.task, self.split, self.size, self.seed = task, split, size, seed
        self.num_scenes = DEFAULT_SCENES[split] if num_scenes is None else num_scenes
        self.num_digits = (num_digits[0], num_digits[1])
        self._composed: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._scans = read_scans(SPLITS[split][1])
        kwargs.setdefault("test_mode", split == "val")
        super().__init__(ann_file="", metainfo={**METAINFO[task], **(metainfo or {})}, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return one dict a scene with its number, size and, for detection, ``instances``."""
        entries: list[dict] = [
            {"img_id": index, "height": self.size, "width": self.size} for index in range(self.num_scenes)
        ]
        if self.task == "detection":
            for entry in entries:
                entry["instances"] = instances_of(self.scene(entry["img_id"]))
        return entries

    def get_data_info(self, idx: int) -> dict:
        """Return what the pipeline starts from, image included."""
        info = super().get_data_info(idx)
        image, classes = self._pixels(info["img_id"])
        info["img"] = image.copy()  # a pipeline may change it
        if self.task == "segmentation":
            info |= {"gt_seg_map": classes.copy(), "seg_fields": ["gt_seg_map"], "reduce_zero_label": False}
        return info

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the classes of a scene's instances, as ``ClassBalancedDataset`` asks for them."""
        return [instance["bbox_label"] for instance in super().get_data_info(idx)["instances"]]

    def _pixels(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """BGR image and map of classes; those of small sets are composed once."""
        if number in self._composed:
            return self._composed[number]
        scene = self.scene(number)
        pixels = np.ascontiguousarray(scene.image[..., ::-1]), scene.semantic_map
        if len(self._composed) * 4 * self.size**2 < _KEPT_BYTES:
            self._composed[number] = pixels
        return pixels

    def scene(self, number: int) -> Scene:
        """Compose a scene by its number."""
        scans, labels = self._scans
        random = np.random.RandomState([self.seed, SPLITS[self.split][0], number])
        return compose_scene(scans, labels, self.size, self.num_digits, random)


def instances_of(scene: Scene) -> list[dict]:
    """What MMDetection's ``LoadAnnotations`` reads: boxes, labels, masks as COCO's run lengths."""
    return [
        {"bbox": box.tolist(), "bbox_label": int(label), "ignore_flag": 0, "mask": run_lengths(mask)}
        for box, label, mask in zip(scene.boxes, scene.labels, scene.masks, strict=True)
    ]


def run_lengths(mask: np.ndarray) -> dict:
    """Encode a mask, bool, (height, width), as COCO's uncompressed run lengths: column by column, zeros first."""
    flat = mask.T.ravel()
    borders = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(borders, prepend=0, append=flat.size).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def _check(task: str, split: str, num_scenes: int | None, size: int, num_digits: tuple[int, int], seed: int) -> None:
    if task not in TASKS:
        raise ValueError(f"DigitScenes: task must be one of {TASKS}, got {task!r}.")
    if split not in SPLITS:
        raise ValueError(f"DigitScenes: split must be one of {tuple(SPLITS)}, got {split!r}.")
    if len(np.shape(num_digits)) != 1 or len(num_digits) != 2:
        raise ValueError(f"DigitScenes: num_digits must be (least, most) with 1 <= least <= most, got {num_digits!r}.")
    numbers = {"num_scenes": num_scenes, "size": size, "num_digits[0]": num_digits[0], "num_digits[1]": num_digits[1]}
    for name, number in {**numbers, "seed": seed}.items():
        if not isinstance(number, int | np.integer) and (number is not None or name != "num_scenes"):
            raise ValueError(f"DigitScenes: {name} must be a whole number, got {number!r}.")
    if num_scenes is not None and num_scenes < 1:
        raise ValueError(f"DigitScenes: num_scenes must be at least 1, got {num_scenes!r}.")
    if size < SMALLEST:
        raise ValueError(f"DigitScenes: size must be at least {SMALLEST} pixels, got {size!r}.")
    if not 1 <= num_digits[0] <= num_digits[1]:
        raise ValueError(f"DigitScenes: num_digits must be (least, most) with 1 <= least <= most, got {num_digits!r}.")
    if not 0 <= seed < 2**32:
        raise ValueError(f"DigitScenes: seed must not be negative and below 2**32, got {seed!r}.")
