"""The picture of ``mmkdprune sensitivity``: layers by rates, and the rates that are suggested."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmkdprune.checkpoint.atomic import atomic_write
from mmkdprune.pruning.filter_pruner import masked_count

_QUANTITIES = {"macs": "multiply-accumulates", "params": "parameters"}
# Up to so many layers the values stand in their fields.
_WRITTEN = 60


def draw(content: Mapping[str, Any], path: Path) -> Path:
    """Draw what is left of the metric, by layer and rate.

    Args:
        content (Mapping[str, Any]): Of the record, complete.
        path (Path): PNG file to write.

    Returns:
        Path: The file.
    """
    from matplotlib.figure import Figure

    metric, rates, layers = content["metric"], [0.0, *content["rates"]], content["layers"]
    values = np.array([[_value(content, layer, rate) for rate in rates] for layer in layers.values()])
    figure = Figure(figsize=(2.6 + 0.75 * len(rates) + 1.6, 1.9 + 0.26 * len(layers)), layout="constrained")
    axes = figure.add_subplot()
    dense = content["dense"][metric]
    low, high = min(values.min(), dense), max(values.max(), dense)
    colours = "viridis" if content["higher_is_better"] else "viridis_r"
    image = axes.imshow(values, aspect="auto", cmap=colours, vmin=low, vmax=high if high > low else low + 1)
    figure.colorbar(image, ax=axes, label=metric, fraction=0.06)
    if len(layers) <= _WRITTEN:
        _write(axes, values, image)
    axes.set_xticks(range(len(rates)), ["0\n(dense)", *(f"{rate:g}" for rate in rates[1:])])
    names = [f"{name} ({layer['filters']}{_more(layer)})" for name, layer in layers.items()]
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("share of filters masked in this layer alone")
    axes.set_ylabel(f"layers of {content['part'] or 'the model'} (filters)")
    axes.set_title(_title(content), loc="left", fontsize=9)
    if "suggestion" in content:
        _mark(axes, content["suggestion"], layers, rates)
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png", dpi=130)
    return path


def _value(content: Mapping[str, Any], layer: Mapping[str, Any], rate: float) -> float:
    number = masked_count(layer["filters"], rate, 1)
    metrics = layer["points"].get(str(number)) if number else content["dense"]
    return np.nan if metrics is None else metrics[content["metric"]]


def _more(layer: Mapping[str, Any]) -> str:
    others = len(layer["layers"]) - 1
    return f", in {others + 1} layers" if others else ""


def _write(axes: Any, values: np.ndarray, image: Any) -> None:
    digits = 1 if np.nanmax(np.abs(values)) > 10 else 3
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            is_dark = float(np.mean(image.cmap(image.norm(value))[:3])) < 0.5
            text = f"{value:.{digits}f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if is_dark else "black")


def _title(content: Mapping[str, Any]) -> str:
    title = f"{content['checkpoint']} of {Path(content['config']).stem}"
    recalibrated = content["recalibrated"][content["metric"]]
    title += f"\n{content['metric']} on {content['validation_images']} images"
    if content["training_images"]:
        title += f", with new BatchNorm statistics (those alone: {recalibrated:.4g})"
    if "suggestion" not in content:
        return title
    ((quantity, share),) = content["suggestion"]["target"].items()
    return f"{title}\n◆ (red) suggested rate, for {share:g} of the {_QUANTITIES[quantity]}"


def _mark(axes: Any, suggestion: Mapping[str, Any], layers: Mapping[str, Any], rates: list[float]) -> None:
    """Suggested rates between the columns of the measured ones."""
    chosen = [1 - after / before for before, after in (suggestion["kept"][name] for name in layers)]
    places = np.interp(chosen, rates, np.arange(len(rates)))
    # Above the middle of the row, where the value stands.
    axes.plot(places, np.arange(len(places)) - 0.32, "D", color="tab:red", markersize=4, markeredgecolor="white")
