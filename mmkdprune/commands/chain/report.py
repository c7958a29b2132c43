"""Table, curves and pictures of a chain of runs."""

import io
import json
import statistics
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import torch

from mmkdprune.checkpoint.atomic import atomic_write
from mmkdprune.config.reading import config_stem
from mmkdprune.errors import UsageError
from mmkdprune.hardware import hardware
from mmkdprune.pruning import complexity
from mmkdprune.version import __version__

from ..pipeline import Phase
from ..run_log import read_accuracies, read_log, read_validations
from .pictures import Scenes, contact_sheet, load_trained, write_png
from .stages import COMPACT, SCRATCH, Chain, length_of, settings_of

# What a log calls the metrics of an evaluator, the main one first; the factor makes percent of them.
METRICS = {
    "CocoMetric": {"coco/bbox_mAP": ("mAP", 100), "coco/bbox_mAP_50": ("AP50", 100)},
    "VOCMetric": {"pascal_voc/mAP": ("mAP", 100)},
    "IoUMetric": {"mIoU": ("mIoU", 1), "mAcc": ("mAcc", 1)},
}


def write_report(chain: Chain, folder: Path, command: str, pictures: int = 4) -> str:
    """Write ``report.json``, ``report.md``, ``curves.png`` and ``predictions_<task>.png``.

    Args:
        chain: Its runs are finished.
        folder: Where to; a report of the same configs and options is replaced.
        command: What made the runs.
        pictures: Images to draw; 0: none.

    Returns:
        The table, Markdown.

    Raises:
        UsageError: A run is not finished, or the folder holds a report of something else.
    """
    _refuse_other(folder, chain)
    tasks = chain.reported_tasks
    if not tasks:
        raise UsageError("there is nothing to report: neither detection nor segmentation was run to its end")
    rows = [_row(chain, tasks, backbone, seed) for seed in chain.seeds for backbone in chain.backbones]
    sheets = {task: _draw(chain, task, rows, pictures) for task in tasks}
    report = {
        "command": command,
        "date": date.today().isoformat(),
        "hardware": hardware(),
        "versions": {"torch": torch.__version__, "mmkdprune": __version__},
        **settings_of(chain),
        "seeds": list(chain.seeds),
        "rows": rows,
    }
    text = table(report)
    with atomic_write(folder / "report.json", "w", encoding="utf-8") as file:
        file.write(json.dumps(report, indent=2) + "\n")
    with atomic_write(folder / "report.md", "w", encoding="utf-8") as file:
        file.write(f"{text}\nWritten on {report['date']} by `{command}`.\n")
    for task, sheet in sheets.items():
        if sheet is not None:
            write_png(folder / f"predictions_{task}.png", sheet)
    with atomic_write(folder / "curves.png") as file:
        file.write(_curves(report))
    return text


def table(report: Mapping[str, Any]) -> str:
    """One line a backbone; means over the seeds, with the standard deviation where there are several."""
    rows = report["rows"]
    tasks = [task for task in ("detection", "segmentation") if any(task in row for row in rows)]
    names = {task: list(next(row[task]["metrics"] for row in rows if task in row)) for task in tasks}
    header = ["backbone", "parameters", "MACs", "top-1 of the digits" if _is_digits(report) else "top-1"]
    header += [f"{task}, {name}" for task in tasks for name in names[task]]
    lines = [header, ["---"] * len(header)]
    for backbone in dict.fromkeys(row["backbone"] for row in rows):
        group = [row for row in rows if row["backbone"] == backbone]
        cells = [backbone, *(_mean(group, [name], "{:,.0f}") for name in ("parameters", "macs"))]
        cells.append(_mean(group, ["pretraining", "top1"]))
        cells += [_mean(group, [task, "metrics", name]) for task in tasks for name in names[task]]
        lines.append(cells)
    text = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    seeds = ", ".join(map(str, report["seeds"]))
    lengths = "; ".join(f"{task}: {next(row[task]['length'] for row in rows if task in row)}" for task in tasks)
    height, width = rows[0]["image_shape"][1:]
    return (
        f"{text}\nSeeds: {seeds}. {lengths[:1].upper()}{lengths[1:]}. Metrics in percent, of the last validation. "
        f"Parameters and MACs are the backbone's, for one image of {height} x {width} pixels.\n"
    )


def _is_digits(report: Mapping[str, Any]) -> bool:
    return all("digits" in config_stem(report["configs"][name]) for name in ("plain", "mixskd", COMPACT))


def _mean(group: list[dict], path: list[str], form: str = "{:.2f}") -> str:
    values = []
    for row in group:
        value: Any = row
        for key in path:
            value = value.get(key, {})
        if isinstance(value, int | float):
            values.append(value)
    if not values:
        return "-"
    mean = form.format(statistics.mean(values))
    is_same_count = isinstance(values[0], int) and len(set(values)) == 1
    return mean if len(values) == 1 or is_same_count else f"{mean} ± {form.format(statistics.stdev(values))}"


def _row(chain: Chain, tasks: list[str], backbone: str, seed: int) -> dict[str, Any]:
    row: dict[str, Any] = {"backbone": backbone, "seed": seed}
    if backbone != SCRATCH:
        phase = chain.pretraining(backbone, seed)
        if accuracies := list(read_accuracies(phase.work_dir).values()):
            row["pretraining"] = {
                "config": phase.stem,
                "length": length_of(phase, phase.name),
                "top1": round(accuracies[-1], 4),
            }
    for task in tasks:
        row[task] = _outcome(chain.fine_tuning(backbone, task, seed), chain.configs[task])
    return row


def _outcome(phase: Phase, config: str) -> dict[str, Any]:
    """Metrics at the end of a run, and how it got there."""
    if not phase.is_done():
        raise UsageError(f"{phase.work_dir} is not finished: repeat the command without skipping its stage")
    log, (unit, number) = read_log(phase.work_dir), phase.length
    found = {step: _metrics(record, phase) for step, record in read_validations(phase.work_dir).items()}
    if number not in found:
        raise UsageError(
            f"the last validation of {phase.work_dir} is missing from its log, since it was interrupted: repeat the "
            "command without skipping its stage"
        )
    history = [{unit: step, **found[step]} for step in sorted(found)]
    logged = [record for record in log if "loss" in record]
    losses = {record["iter"]: record["loss"] for record in logged if "iter" in record}
    return {
        "config": phase.stem,
        "length": length_of(phase, config),
        "metrics": found[number],
        "history": history,
        "loss": [{"iter": step, "loss": round(losses[step], 4)} for step in sorted(losses)],
        # A run shorter than the logger's interval has logged neither.
        "seconds_an_iteration": round(statistics.median(record["time"] for record in logged), 4) if logged else None,
    }


def _metrics(record: Mapping[str, Any], phase: Phase) -> dict[str, float]:
    """Metrics in percent; MMDetection logs none where no box was found."""
    evaluator = str(phase.config.val_evaluator.type).rpartition(".")[2]
    if evaluator not in METRICS:
        raise UsageError(f"val_evaluator: metrics of {evaluator} are not known, only those of {', '.join(METRICS)}")
    return {name: round(factor * record.get(key, 0), 2) for key, (name, factor) in METRICS[evaluator].items()}


def _draw(chain: Chain, task: str, rows: Iterable[dict], number: int) -> Any:
    """Pictures of the first seed's networks; notes the size of every backbone in its rows."""
    scenes, columns = None, []
    for row in rows:
        phase = chain.fine_tuning(row["backbone"], task, row["seed"])
        model = load_trained(phase.config, phase.final_checkpoint)
        if scenes is None:
            scenes = Scenes(phase.config, max(number, 1))
            columns.append(("truth", scenes.truth()))
        if "macs" not in row:
            size = complexity(model.get_submodule("backbone"), scenes.image_shape, rounds=0)
            row |= {"parameters": size["params"], "macs": size["macs"], "image_shape": list(scenes.image_shape)}
        if number and row["seed"] == chain.seeds[0]:
            columns.append((row["backbone"], scenes.predictions(model)))
    return contact_sheet(columns) if number else None


def _curves(report: Mapping[str, Any]) -> bytes:
    """Training loss and validation metric of every run, PNG."""
    from matplotlib.figure import Figure

    tasks = [task for task in ("detection", "segmentation") if task in report["rows"][0]]
    figure = Figure(figsize=(10, 3.6 * len(tasks)), layout="constrained")
    axes = figure.subplots(len(tasks), 2, squeeze=False)
    order = list(dict.fromkeys(row["backbone"] for row in report["rows"]))
    for (left, right), task in zip(axes, tasks, strict=True):
        for row in report["rows"]:
            outcome, colour = row[task], f"C{order.index(row['backbone'])}"
            label = row["backbone"] if row["seed"] == report["seeds"][0] else None
            left.plot(*_series(outcome["loss"]), color=colour, label=label, linewidth=0.8)
            right.plot(*_series(outcome["history"]), color=colour, label=label, marker=".")
        left.set(title=f"{task}: training loss", xlabel="iteration", yscale="log")
        first = outcome["history"][0]
        unit, metric = list(first)[:2]
        right.set(title=f"{task}: {metric} in validation, percent", xlabel=unit)
        right.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _series(points: list[dict[str, float]]) -> tuple[list[float], list[float]]:
    """The first two fields of every point."""
    pairs = [list(point.values())[:2] for point in points]
    return [step for step, _ in pairs], [value for _, value in pairs]


def _refuse_other(folder: Path, chain: Chain) -> None:
    file = folder / "report.json"
    if not file.is_file():
        return
    found = json.loads(file.read_text(encoding="utf-8"))
    wanted = json.loads(json.dumps(settings_of(chain)))
    for name, value in wanted.items():
        if found.get(name) != value:
            raise UsageError(f"{file} is a report of other {name} ({found.get(name)}): give another --report folder")
