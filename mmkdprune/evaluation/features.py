"""Pooled features of a frozen backbone, computed once for all images of a set."""

import contextlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmkdprune.arguments import checked

# What PyTorch says of images that a convolution does not read.
_CHANNELS = re.compile(r"to have (\d+) channels, but got (\d+) channels")


@checked
@dataclass(frozen=True)
class FeatureSet:
    """Features and labels of a set of images.

    Attributes:
        features: float32, (N, D), on the CPU.
        labels: Class indices, int64, (N,), on the CPU.
        classes: Names of the classes, where the data set has them.
    """

    features: Tensor
    labels: Tensor
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or self.labels.shape != self.features.shape[:1]:
            raise ValueError(
                f"FeatureSet: features (N, D) need labels (N,), got {tuple(self.features.shape)} and "
                f"{tuple(self.labels.shape)}"
            )

    @property
    def num_classes(self) -> int:
        """Number of classes: of names, else one more than the largest label."""
        return len(self.classes) if self.classes is not None else int(self.labels.max()) + 1


@checked
def pool_features(outputs: Any) -> Tensor:
    """One vector an image from what a backbone returns: its last output, averaged over the area if it is a map.

    Args:
        outputs (Tensor | Sequence[Tensor]): (N, D, H, W) or (N, D), or a sequence whose last element is one.

    Returns:
        Tensor: float32, (N, D).

    Raises:
        ValueError: If the last output is neither.
    """
    last = outputs[-1] if isinstance(outputs, tuple | list) else outputs
    if isinstance(last, Tensor) and last.ndim == 4:
        return last.float().mean((2, 3))
    if isinstance(last, Tensor) and last.ndim == 2:
        return last.float()
    found = f"shape {tuple(last.shape)}" if isinstance(last, Tensor) else f"type {type(last).__name__}"
    raise ValueError(
        f"features must be maps (N, D, H, W) or vectors (N, D), but the backbone's last output has {found}: of a "
        "transformer set backbone.out_type='cls_token' or 'avg_featmap'."
    )


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Context in which a module is in eval mode and computes no gradients; afterwards every part is as before.

    Args:
        module (nn.Module): The backbone, or a whole model.

    Yields:
        None.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for part, training in modes:
            part.training = training  # train() would reach the parts that a backbone keeps in eval mode


@checked
def make_preprocessor(settings: Mapping[str, Any] | nn.Module | None) -> nn.Module:
    """What normalises images for evaluation as a model normalises them in training, without batch augmentation.

    Args:
        settings (Mapping | nn.Module, optional): Config or instance of a data preprocessor of classification or
            self-supervised learning. Defaults to None, images as they are.

    Returns:
        nn.Module: MMPretrain's ``ClsDataPreprocessor``, for batches of single images.
    """
    from mmpretrain.models.utils.data_preprocessor import ClsDataPreprocessor

    if isinstance(settings, nn.Module):
        flips = getattr(settings, "to_rgb", False) or getattr(settings, "_channel_conversion", False)
        values: dict[str, Any] = {"to_rgb": bool(flips)}
        if getattr(settings, "_enable_normalize", False):
            values |= {name: getattr(settings, name).flatten().tolist() for name in ("mean", "std")}
        return ClsDataPreprocessor(**values).to(next(settings.buffers(), torch.empty(0)).device)
    settings = settings or {}
    check_normalisation("data_preprocessor", settings)
    values = {name: list(settings[name]) for name in ("mean", "std") if settings.get(name) is not None}
    return ClsDataPreprocessor(
        to_rgb=any(settings.get(name, False) for name in ("to_rgb", "bgr_to_rgb", "rgb_to_bgr")), **values
    )


def check_normalisation(field: str, settings: Mapping[str, Any]) -> None:
    """Refuse a normalisation that makes NaN, or half of one.

    Args:
        field (str): Name of the setting, for the message.
        settings (Mapping): Config of a data preprocessor.

    Raises:
        ValueError: If ``mean`` and ``std`` are not lists of numbers of one length, or a ``std`` is not positive.
    """
    given = {name: settings[name] for name in ("mean", "std") if settings.get(name) is not None}
    for name, values in given.items():
        members = list(values) if isinstance(values, list | tuple) else [None]
        good = [
            isinstance(value, int | float) and math.isfinite(value) and (name == "mean" or value > 0)
            for value in members
        ]
        if not all(good) or not good:
            kind = "numbers" if name == "mean" else "positive numbers"
            raise ValueError(f"{field}.{name} must be a list of {kind}, one per channel, got {values!r}")
    if len(given) == 1 or len({len(values) for values in given.values()}) > 1:
        raise ValueError(f"{field} needs mean and std of the same length, got {given}")


def read_target(data_samples: Any, dataset: str) -> Tensor:
    """Labels of a batch.

    Args:
        data_samples (list[DataSample] | None): Of the batch.
        dataset (str): Name of the data set, for the message.

    Returns:
        Tensor: int64, (B,).

    Raises:
        ValueError: If an image has no label, or several.
    """
    labels: list[Any] = [getattr(sample, "gt_label", None) for sample in data_samples or ()]
    if not labels or any(label is None or label.numel() != 1 or int(label) < 0 for label in labels):
        raise ValueError(
            f"this evaluation compares images by their class, but {dataset} has images without exactly one label: use "
            "the labelled part of the set (of STL-10 'train' or 'test', not 'unlabeled'), with PackInputs last in its "
            "pipeline."
        )
    return torch.cat([label.reshape(1) for label in labels]).cpu()


def run_backbone(backbone: nn.Module, images: Tensor, dataset: str) -> Any:
    """Run a backbone on a batch of a data set.

    Args:
        backbone (nn.Module): Any network of images.
        images (Tensor): Prepared images, (B, C, H, W).
        dataset (str): Name of the data set, for the message.

    Returns:
        Any: What the backbone returns.

    Raises:
        ValueError: If the backbone reads images of another number of channels.
    """
    try:
        return backbone(images)
    except RuntimeError as error:
        channels = _CHANNELS.search(str(error))
        if channels is None or int(channels[2]) != images.shape[1]:
            raise
        advice = (
            "load them in grey: LoadImageFromFile with color_type='grayscale' in the pipelines of the data's config, "
            "and one mean and std in its data_preprocessor"
            if channels[1] == "1"
            else "evaluate on data that are like those of its training"
        )
        raise ValueError(
            f"{type(backbone).__name__} was trained on images of {channels[1]} channel(s), and those of {dataset} have "
            f"{channels[2]}: {advice}"
        ) from error


@checked
def extract_features(
    backbone: nn.Module, dataloader: Iterable[dict[str, Any]], preprocessor: nn.Module | None = None
) -> FeatureSet:
    """Run a frozen backbone once over a data loader.

    Weights, buffers and modes of the backbone are afterwards bit by bit what they were.

    Args:
        backbone (nn.Module): Returns feature maps or vectors, see :func:`pool_features`.
        dataloader (Iterable[dict]): Batches with ``inputs``, (B, C, H, W) bytes, and ``data_samples`` with labels.
        preprocessor (nn.Module, optional): See :func:`make_preprocessor`. Defaults to None, images as they are.

    Returns:
        FeatureSet: In the order of the loader.

    Raises:
        ValueError: If images have no label, there is none, or they have other channels than the backbone reads.
    """
    dataset = getattr(dataloader, "dataset", None)
    name = type(dataset).__name__
    device = next((parameter.device for parameter in backbone.parameters()), torch.device("cpu"))
    preprocessor = (make_preprocessor(None) if preprocessor is None else preprocessor).to(device)
    parts, labels = [], []
    with frozen(backbone):
        for batch in dataloader:
            if not isinstance(batch, Mapping) or "inputs" not in batch:
                raise ValueError(
                    f"dataloader must give batches dict(inputs=..., data_samples=...), as PackInputs makes them, got a "
                    f"{type(batch).__name__} from {name}"
                )
            prepared = preprocessor(batch, False)
            labels.append(read_target(prepared.get("data_samples"), name))
            parts.append(pool_features(run_backbone(backbone, prepared["inputs"], name)).cpu())
    if not parts:
        raise ValueError(f"{name} has no images to evaluate.")
    classes = (getattr(dataset, "metainfo", None) or {}).get("classes")
    names = tuple(map(str, classes)) if classes is not None else None
    # Tensors made in inference mode cannot be used for training a classifier.
    return FeatureSet(torch.cat(parts).clone(), torch.cat(labels).clone(), names)
