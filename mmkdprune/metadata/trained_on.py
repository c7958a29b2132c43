"""Read from a checkpoint on which classes and images its network was trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmkdprune.config.stored_text import read_config_text

from .seen_images import BGR, RGB, SeenImages, images_of_config, leaves_of, preprocessing_of


@dataclass(frozen=True)
class TrainedOn:
    """Classes and images of a training.

    Attributes:
        classes: Class names in the order of the labels; None if the checkpoint does not tell.
        images: Normalisation and colours; None if the checkpoint does not tell.
    """

    classes: tuple[str, ...] | None = None
    images: SeenImages | None = None


def trained_on(checkpoint: Any) -> TrainedOn:
    """Read what a loaded checkpoint tells of its training; nothing in it is built or run.

    Args:
        checkpoint (Any): Content of a file: of a run, an export, or an OpenMMLab release of before 2.0. Bare weights
            tell nothing.
    """
    meta = checkpoint.get("meta") if isinstance(checkpoint, Mapping) else None
    if not isinstance(meta, Mapping):
        return TrainedOn()
    info = meta.get("dataset_meta")
    names = info.get("classes", info.get("CLASSES")) if isinstance(info, Mapping) else None
    names = meta.get("CLASSES") if names is None else names
    known = tuple(map(str, names)) if isinstance(names, Sequence) and not isinstance(names, str) else None
    return TrainedOn(known, _images(meta))


def trained_by(config: Mapping[str, Any]) -> TrainedOn:
    """Read the same from the config of a training; its classes where the training set's config names them."""
    names = {_names(leaf) for leaf in leaves_of((config.get("train_dataloader") or {}).get("dataset"))}
    return TrainedOn(names.pop() if len(names) == 1 else None, images_of_config(config))


def _names(dataset: Any) -> tuple[str, ...] | None:
    if not isinstance(dataset, Mapping):
        return None
    classes = (dataset.get("metainfo") or {}).get("classes", dataset.get("classes"))
    return tuple(map(str, classes)) if isinstance(classes, Sequence) and not isinstance(classes, str) else None


def _images(meta: Mapping[str, Any]) -> SeenImages | None:
    if isinstance(meta.get("cfg"), str):
        config: dict[str, Any] = {}
        for name in ("model", "data_preprocessor", "train_dataloader"):
            try:
                config |= read_config_text(meta["cfg"], (name,))
            except ValueError:  # a text of another form, or a value that is more than plain data
                continue
        if "model" in config or "data_preprocessor" in config:
            return images_of_config(config)
    model = meta.get("model")
    if not isinstance(model, Mapping) or not isinstance(model.get("data_preprocessor"), Mapping):
        return None
    colours = meta.get("image_colours")
    return replace(preprocessing_of(model["data_preprocessor"]), seen=colours if colours in (RGB, BGR) else None)
