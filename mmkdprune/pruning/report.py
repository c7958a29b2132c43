"""The course of a pruned training run, as a JSON file and a picture."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmkdprune.arguments import checked

from .history import COUNTS, TIMES, entries_of, exchanged, summarise
from .pruner import Pruner

# What a line of the log has that was written after a prune step.
_LOGGED = ("t", "rate", "decay", "hard_share", "pruned", "hard", "zero")


@checked
def make_report(state: Pruner | Mapping[str, Any], **results: Any) -> dict[str, Any]:
    """Collect what happened at every step, in plain types.

    Args:
        state (Pruner | Mapping): A pruner, or what its ``state_dict`` returned, such as
            ``checkpoint['mmkdprune']['pruning']``.
        **results: Further entries, such as accuracies or :func:`~mmkdprune.pruning.complexity`.

    Returns:
        dict: ``settings``, ``finalized``, ``exchanged`` (share of the masked filters that a step exchanges, the mean
        over the steps after the first, None where there are none), ``steps`` (a list of dictionaries as
        ``Pruner.report`` returns) and the further entries.
    """
    state = state.state_dict() if isinstance(state, Pruner) else state
    check_keys("state", state, ("settings", "finalized", "history"), "Pruner.state_dict returns")
    check_keys("state['history']", state["history"], ("sizes", *TIMES, *COUNTS), "Pruner.state_dict returns")
    history = state["history"]
    steps = [summarise(entry, history["sizes"]) for entry in entries_of(history)]
    course = {"settings": state["settings"], "finalized": state["finalized"], "exchanged": exchanged(steps)}
    return {**course, "steps": steps, **results}


@checked
def report_from_scalars(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Make a report from the scalars that ``FilterPruningHook`` logs: the lines of ``vis_data/scalars.json``.

    A log holds less than a checkpoint: of single layers only the zero filters, which stand for the masked ones.

    Args:
        rows (Sequence[Mapping]): Logged scalars, those of other origin among them.

    Returns:
        dict: As :func:`make_report`; ``steps`` is empty if there are none of the hook.
    """
    sizes: dict[str, int] = {}
    steps = []
    for row in rows:
        sizes |= {_layer(key): int(size) for key, size in row.items() if key.startswith("pruning/items/")}
        if "pruning/rate" not in row:
            continue
        check_keys("rows", row, [f"pruning/{name}" for name in _LOGGED], "FilterPruningHook logs")
        layers = {}
        for key in row:
            if key.startswith("pruning/zero/") and _layer(key) in sizes:
                zero = {name: int(row[key]) for name in ("pruned", "hard", "zero")}
                layers[_layer(key)] = {"filters": sizes[_layer(key)], **zero, "overlap": None, "revived": None}
        whole = {name: int(row[f"pruning/{name}"]) for name in ("pruned", "hard", "zero")}
        shares = {name: row.get(f"pruning/{name}") for name in ("overlap", "revived")}
        times = {"t": int(row["pruning/t"]), "total": None, "final": False}
        times |= {name: row[f"pruning/{name}"] for name in ("rate", "decay", "hard_share")}
        steps.append({**times, "filters": sum(sizes.values()), **whole, **shares, "layers": layers})
    settings = {"type": "from a log", "rate": steps[-1]["rate"]} if steps else {}
    return {"settings": settings, "finalized": None, "exchanged": exchanged(steps), "steps": steps}


def _layer(key: str) -> str:
    return key.split("/", 2)[2]


@checked
def save_report(report: Mapping[str, Any], folder: str | os.PathLike, name: str = "pruning_report") -> list[Path]:
    """Write ``<name>.json`` and, if Matplotlib is installed and there are steps, ``<name>.png``.

    Returns:
        list[Path]: The files.
    """
    check_keys("report", report, ("settings", "steps"), "make_report returns")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    files = [target / f"{name}.json"]
    files[0].write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return files
    if isinstance(report["steps"], list) and report["steps"]:
        files.append(plot_report(report, target / f"{name}.png"))
    return files


@checked
def plot_report(report: Mapping[str, Any], path: str | os.PathLike) -> Path:
    """Draw schedules, kept share of each layer and the change of masks over time.

    Args:
        report (Mapping): As from :func:`make_report`, with at least one step.
        path (str | os.PathLike): PNG file to write.

    Returns:
        Path: The file.

    Raises:
        ImportError: If Matplotlib is not installed.
        ValueError: If the report has no step.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    check_keys("report", report, ("settings", "steps"), "make_report returns")
    steps = report["steps"]
    if not isinstance(steps, list) or not steps:
        raise ValueError(f"report['steps'] must hold at least one prune step to draw, got {steps!r:.80}")
    layers = list(steps[-1]["layers"])
    height = max(3.0, min(0.16 * len(layers), 20.0))
    figure = Figure(figsize=(9, 5 + height), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    schedules, churn, kept = figure.subplots(3, 1, height_ratios=(2.5, 2.5, height))
    _draw_schedules(schedules, steps, report)
    _draw_churn(churn, steps)
    _draw_layers(kept, steps[-1]["layers"])
    canvas.print_png(str(path))
    return Path(path)


def check_keys(field: str, value: Any, keys: Sequence[str], origin: str) -> None:
    """Raise ``ValueError`` unless a mapping has all keys.

    Args:
        field (str): Name of the argument.
        value (Any): What was given.
        keys (Sequence[str]): What it needs.
        origin (str): Where such a mapping comes from, for the message.
    """
    missing = [key for key in keys if key not in value] if isinstance(value, Mapping) else list(keys)
    if missing:
        raise ValueError(f"{field} is not what {origin}: it lacks {', '.join(missing)}")


def _times(steps: list[dict]) -> list[int]:
    return [step["t"] + 1 for step in steps]


def _draw_schedules(axes: Any, steps: list[dict], report: Mapping[str, Any]) -> None:
    curves = (
        ("rate", "pruning rate P", "tab:blue", "-"),
        ("decay", "soft decay α", "tab:orange", "--"),
        ("hard_share", "hard share λ", "tab:green", "-."),
    )
    # finalize makes everything hard at the time of the last step
    steps = [step for step in steps if not step["final"]] or steps
    for key, label, color, style in curves:
        axes.plot(_times(steps), [step[key] for step in steps], style, color=color, label=label, marker=".")
    zero = [step["zero"] / step["filters"] for step in steps]
    axes.plot(_times(steps), zero, ":", color="black", label="zero filters (share)", marker="x", markersize=4)
    settings = report["settings"]
    title = f"{report.get('method') or settings['type']}, rate {settings['rate']:g}"
    for name in ("before_finalize", "after_finalize"):
        metrics = [f"{metric} {value:.4g}" for metric, value in list(report.get(name, {}).items())[:1]]
        title += f"; {name.replace('_', ' ')}: {metrics[0]}" if metrics else ""
    axes.set_title(title, loc="left", fontsize=10)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlim(*_limits(steps))
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel("value after the step")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def _draw_churn(axes: Any, steps: list[dict]) -> None:
    """Values between a step and the one before."""
    for key, label, color in (
        ("overlap", "masked again", "tab:blue"),
        ("revived", "not zero any more\nwhen the step began", "tab:red"),
    ):
        points = [(step["t"] + 1, step[key]) for step in steps if step[key] is not None and not step["final"]]
        if points:
            axes.plot(*zip(*points, strict=True), color=color, label=label, marker=".")
    axes.set_xlim(*_limits(steps))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel("share of the mask\nof the step before")
    axes.set_xlabel("prune step (epoch, unless the run counts iterations)")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def _limits(steps: list[dict]) -> tuple[float, float]:
    times = _times(steps)
    margin = 0.05 * max(times[-1] - times[0], 1)
    return times[0] - margin, times[-1] + margin


def _draw_layers(axes: Any, layers: Mapping[str, dict]) -> None:
    names = list(layers)
    filters = [row["filters"] for row in layers.values()]
    masked = [1 - row["pruned"] / row["filters"] for row in layers.values()]
    axes.barh(names, masked, color="tab:blue", height=0.8)
    every = max(1, len(names) // 60)
    axes.set_yticks(range(0, len(names), every), names[::every], fontsize=7)
    for index, (row, share, size) in enumerate(zip(layers.values(), masked, filters, strict=True)):
        if index % every == 0:
            axes.text(share + 0.005, index, f"{size - row['pruned']} of {size}", va="center", fontsize=6)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 1.08)
    axes.set_xlabel("share of filters kept at the last step, first layer on top")
    axes.grid(axis="x", alpha=0.3)
