"""Pictures of what detectors and segmentors find, beside what is there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, init_default_scope

from mmkdprune.checkpoint.atomic import atomic_write
from mmkdprune.checkpoint.loading import load_checkpoint_file
from mmkdprune.deploy.filling import fill
from mmkdprune.deploy.network import build_network, select_weights
from mmkdprune.errors import UsageError

_WIDTH = 256  # pixels to which smaller images are enlarged, so that text can be read
_HEADER = 22
_GAP = 4
_OPACITY = 0.6
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_BGR = slice(None, None, -1)


class Scenes:
    """Images of a validation set, with what a network finds in them.

    Args:
        config: Of a detector or a segmentor; its ``val_dataloader`` says which images. As in the stock pipelines for
            validation, annotations are loaded after ``Resize``: both truth and predictions are in the image's pixels.
        number: How many, evenly spread over the set.
        threshold: Boxes of a lower score are not drawn.

    Raises:
        UsageError: The config has no validation set.
    """

    def __init__(self, config: Config, number: int = 4, threshold: float = 0.3) -> None:
        if config.get("val_dataloader") is None:
            raise UsageError("the config has no val_dataloader: there is nothing to draw")
        init_default_scope(config.default_scope)
        self.dataset = DATASETS.build(config.val_dataloader.dataset)
        self.threshold = threshold
        picks = np.linspace(0, len(self.dataset) - 1, min(number, len(self.dataset))).round().astype(int)
        self.entries = [self.dataset[int(pick)] for pick in picks]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the first image, as the network gets it."""
        channels, height, width = self.entries[0]["inputs"].shape
        return channels, height, width

    def truth(self) -> list[np.ndarray]:
        """Draw what is there; RGB images, uint8."""
        return [self._draw(entry, entry["data_samples"], is_truth=True) for entry in self.entries]

    def predictions(self, model: BaseModel) -> list[np.ndarray]:
        """Draw what a model finds; RGB images, uint8."""
        was_training = model.training
        model.eval()
        drawn = []
        with torch.no_grad():
            for entry in self.entries:
                (sample,) = model.test_step(pseudo_collate([entry]))
                drawn.append(self._draw(entry, sample.cpu(), is_truth=False))
        model.train(was_training)
        return drawn

    def _draw(self, entry: dict, sample: Any, is_truth: bool) -> np.ndarray:
        image = _image(entry)
        zoom = max(1, round(_WIDTH / image.shape[1]))
        image = np.ascontiguousarray(image.repeat(zoom, axis=0).repeat(zoom, axis=1))
        if "gt_instances" in sample:
            return self._draw_boxes(image, sample, zoom, is_truth)
        classes = (sample.gt_sem_seg if is_truth else sample.pred_sem_seg).data[0].cpu().numpy()
        return _overlay(image, classes.repeat(zoom, axis=0).repeat(zoom, axis=1), self.dataset.metainfo["palette"])

    def _draw_boxes(self, image: np.ndarray, sample: Any, zoom: int, is_truth: bool) -> np.ndarray:
        found = sample.gt_instances if is_truth else sample.pred_instances
        if not is_truth:
            found = found[found.scores >= self.threshold]
        boxes = torch.as_tensor(getattr(found.bboxes, "tensor", found.bboxes)).cpu().numpy()
        meta = self.dataset.metainfo
        palette = meta.get("palette") or [(255, 64, 64)]
        for index, (box, label) in enumerate(zip(boxes * zoom, found.labels.tolist(), strict=True)):
            colour = tuple(int(value) for value in palette[label % len(palette)])
            left, top, right, bottom = box.round().astype(int).tolist()
            cv2.rectangle(image, (left, top), (right, bottom), colour, 1)
            text = str(meta["classes"][label]) + ("" if is_truth else f" {found.scores[index]:.2f}")
            _write(image, text, (left, max(top - 3, 10)), colour)
        return image


def load_trained(config: Config, checkpoint: Path) -> BaseModel:
    """Build the model of a config and fill it from a checkpoint of its run.

    Raises:
        ExportError: The checkpoint is of another model.
    """
    network = build_network(config.model.to_dict(), config.default_scope)
    assert isinstance(network, BaseModel)
    state = select_weights(load_checkpoint_file(checkpoint, map_location="cpu"))
    fill(network, state, checkpoint, "the config's model")
    return network


def contact_sheet(columns: Sequence[tuple[str, Sequence[np.ndarray]]]) -> np.ndarray:
    """Put images beside one another: a column for each title, a row for each image; RGB, uint8."""
    cells = [[_padded(image) for image in images] for _, images in columns]
    rows = [np.concatenate(row, axis=1) for row in zip(*cells, strict=True)]
    width = max(row.shape[1] for row in rows)
    rows = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    header = np.full((_HEADER, width, 3), 255, dtype=np.uint8)
    left = 0
    for (title, _), images in zip(columns, cells, strict=True):
        cv2.putText(header, title, (left + 2, _HEADER - 7), _FONT, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        left += images[0].shape[1]
    return np.concatenate([header, *rows])


def write_png(path: Path, image: np.ndarray) -> None:
    """Write an RGB image, whole or not at all."""
    _, encoded = cv2.imencode(".png", image[..., _BGR])
    with atomic_write(path) as file:
        file.write(encoded.tobytes())


def _image(entry: dict) -> np.ndarray:
    """The image in its own size, RGB; boxes and classes are found in its pixels."""
    sample = entry["data_samples"]
    if sample.get("img_path"):
        return np.asarray(cv2.imread(sample.img_path, cv2.IMREAD_COLOR))[..., _BGR]
    height, width = sample.ori_shape
    return cv2.resize(entry["inputs"].permute(1, 2, 0).numpy(), (width, height))[..., _BGR]


def _overlay(image: np.ndarray, classes: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Colours of classes over the grey image; what is black in the palette or has no class stays as it is."""
    colours = np.zeros((256, 3), dtype=np.float32)
    colours[: len(palette)] = palette
    painted = colours[classes]
    grey = image.mean(axis=2, keepdims=True).repeat(3, axis=2)
    shown = np.where(painted.any(axis=2, keepdims=True), (1 - _OPACITY) * grey + _OPACITY * painted, grey)
    return shown.round().astype(np.uint8)


def _write(image: np.ndarray, text: str, place: tuple[int, int], colour: tuple[int, ...]) -> None:
    """Text on a dark rim, readable on every background."""
    for shade, thickness in (((0, 0, 0), 3), (colour, 1)):
        cv2.putText(image, text, place, _FONT, 0.4, shade, thickness, cv2.LINE_AA)


def _padded(image: np.ndarray) -> np.ndarray:
    return np.pad(image, ((0, _GAP), (0, _GAP), (0, 0)), constant_values=255)
