"""Tell on which images a network was trained: normalisation, and the order of colours that it sees.

That order follows from the loader (files are read as BGR, arrays of CIFAR-like sets are RGB), from pipeline steps that
exchange red and blue, and from the data preprocessor (``to_rgb``, ``bgr_to_rgb``, ``rgb_to_bgr``). One flag alone says
nothing.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from .class_names import leaf_datasets

FLAGS = ("to_rgb", "bgr_to_rgb", "rgb_to_bgr")
RGB, BGR = "RGB", "BGR"
# Steps that exchange red and blue when one of these arguments is set.
_EXCHANGES = {"NumpyToPIL": "to_rgb", "PILToNumpy": "to_bgr", "Normalize": "to_rgb"}
# Steps that read a file in BGR; others that load images read bands of any kind, or arrays of any order.
_FILE_STEPS = ("LoadImageFromFile", "LoadImageFromWebcam")
_BGR_ARRAYS = ("DigitScenes",)  # data sets whose arrays are in the order of files; all others give RGB


@dataclass(frozen=True)
class SeenImages:
    """Images as they reach a network.

    Attributes:
        loader: Order of colours that the data set and its pipeline give, ``'RGB'`` or ``'BGR'``; None if not known.
        exchanges: Whether the data preprocessor exchanges red and blue.
        mean: Of the normalisation, per channel; None for none.
        std: Likewise.
        seen: Order of colours, where a file states it itself.
    """

    loader: str | None = None
    exchanges: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    seen: str | None = None

    @property
    def colours(self) -> str | None:
        """Order of colours that the network sees, ``'RGB'`` or ``'BGR'``; None if not known."""
        return self.seen or exchanged(self.loader, self.exchanges)

    def describe(self) -> str:
        """Order of colours and normalisation, for messages."""
        flag = f"{' and '.join(FLAGS[:2])} {'on' if self.exchanges else 'off'}"
        source = {BGR: "files, read as BGR", RGB: "arrays in RGB"}.get(self.loader or "", "a loader not known")
        order = self.seen or (f"{self.colours} ({source}, {flag})" if self.colours else f"{flag}, {source}")
        return f"{order}, mean={_rounded(self.mean)}, std={_rounded(self.std)}"

    def flag_for(self, colours: str | None) -> bool | None:
        """Whether the preprocessor must exchange red and blue for the network to see ``colours``; None if not known."""
        return None if colours is None or self.loader is None else colours != self.loader


def exchanged(order: str | None, exchange: bool) -> str | None:
    """Order of colours after an exchange of red and blue, if there is one."""
    return order if order is None or not exchange else {RGB: BGR, BGR: RGB}[order]


def differences(ours: SeenImages, theirs: SeenImages) -> list[str]:
    """Name what differs: ``'colours'``, ``'mean'``, ``'std'``.

    Where the loader of one side is not known, both are taken to have the same.

    Args:
        ours (SeenImages): Images of one network.
        theirs (SeenImages): Images of another.
    """
    found = [name for name in ("mean", "std") if not _alike(getattr(ours, name), getattr(theirs, name))]
    if ours.mean is not None and len(ours.mean) == 1:  # grey
        return found
    if ours.colours is not None and theirs.colours is not None:
        differ = ours.colours != theirs.colours
    else:
        differ = ours.seen is None and theirs.seen is None and ours.exchanges != theirs.exchanges
    return [*found, "colours"] if differ else found


def preprocessing_of(settings: Mapping[str, Any] | None) -> SeenImages:
    """Read normalisation and exchange of colours from the config of a data preprocessor."""
    settings = settings or {}
    mean, std = (_numbers(settings.get(name)) for name in ("mean", "std"))
    return SeenImages(exchanges=any(settings.get(name) for name in FLAGS), mean=mean, std=std)


def images_of_config(config: Mapping[str, Any], field: str = "train_dataloader") -> SeenImages:
    """Read from a whole config which images its network sees.

    Args:
        config (Mapping): With ``data_preprocessor``, alone or in ``model``, and dataloaders.
        field (str): Whose data set. Defaults to ``'train_dataloader'``.

    Returns:
        SeenImages: What the config tells.
    """
    model = config.get("model") or {}
    preprocessing = preprocessing_of(model.get("data_preprocessor") or config.get("data_preprocessor"))
    return replace(preprocessing, loader=loader_colours((config.get(field) or {}).get("dataset")))


def images_of_run(model: Any, dataset: Any) -> SeenImages:
    """Read from a model and a data set, both built, which images the network sees."""
    preprocessor = getattr(model, "data_preprocessor", None)
    mean, std = (_values(getattr(preprocessor, name, None)) for name in ("mean", "std"))
    exchanges = bool(getattr(preprocessor, "to_rgb", False) or getattr(preprocessor, "_channel_conversion", False))
    exchanges = exchanges or bool(getattr(preprocessor, "channel_conversion", False))
    return SeenImages(loader=loader_colours(dataset), exchanges=exchanges, mean=mean, std=std)


def loader_colours(dataset: Any) -> str | None:
    """Order of colours that a data set gives, ``'RGB'`` or ``'BGR'``; None if it is not known.

    Args:
        dataset (Any): A data set, or its config.
    """
    found = {_leaf_colours(leaf) for leaf in leaves_of(dataset)}
    return found.pop() if len(found) == 1 else None


def leaves_of(dataset: Any) -> Iterator[Any]:
    """Yield the data sets inside the wrappers of a data set, or of its config."""
    if not isinstance(dataset, Mapping):
        yield from leaf_datasets(dataset) if dataset is not None else ()
        return
    inner = [dataset["dataset"]] if "dataset" in dataset else list(dataset.get("datasets", ()))
    if not inner:
        yield dataset
    for part in inner:
        yield from leaves_of(part)


def _leaf_colours(dataset: Any) -> str | None:
    if isinstance(dataset, Mapping):
        kind, steps = dataset.get("type"), dataset.get("pipeline")
    else:
        kind, steps = type(dataset), getattr(getattr(dataset, "pipeline", None), "transforms", None)
    if not isinstance(steps, Sequence):
        return None
    names = [_name(step) for step in steps]
    loads = [name for name in names if name.startswith("Load") and "Image" in name and "NDArray" not in name]
    if any(name not in _FILE_STEPS for name in loads):
        return None
    if not loads and kind is not None and _class_name(kind) in _BGR_ARRAYS:
        order = BGR
    else:
        order = BGR if loads else RGB
    exchanges = sum(
        bool(_option(step, _EXCHANGES[name])) for step, name in zip(steps, names, strict=True) if name in _EXCHANGES
    )
    return exchanged(order, exchanges % 2 == 1)


def _name(step: Any) -> str:
    return _class_name(step.get("type")) if isinstance(step, Mapping) else type(step).__name__


def _class_name(kind: Any) -> str:
    return kind.rpartition(".")[2] if isinstance(kind, str) else getattr(kind, "__name__", "")


def _option(step: Any, name: str) -> Any:
    return step.get(name) if isinstance(step, Mapping) else getattr(step, name, None)


def _values(tensor: Any) -> tuple[float, ...] | None:
    return tuple(tensor.flatten().tolist()) if isinstance(tensor, Tensor) else None


def _numbers(values: Any) -> tuple[float, ...] | None:
    if values is None:
        return None
    values = values if isinstance(values, Sequence) else [values]
    return tuple(map(float, values))


def _alike(one: tuple[float, ...] | None, other: tuple[float, ...] | None) -> bool:
    if one is None or other is None:
        return one is other
    return len(one) == len(other) and all(math.isclose(a, b, abs_tol=0.01) for a, b in zip(one, other, strict=True))


def _rounded(values: tuple[float, ...] | None) -> list[float] | None:
    return None if values is None else [round(value, 3) for value in values]
