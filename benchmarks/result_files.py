"""What a training row leaves behind: one JSON file."""

import json
import math
import platform
import re
import statistics
from datetime import date
from pathlib import Path
from typing import Any

import mmengine
import mmpretrain
import torch
from rows import RESULTS, Row, relative_config

import mmkdprune
from mmkdprune.checkpoint.atomic import atomic_write
from mmkdprune.commands.pipeline import Phase
from mmkdprune.commands.run_log import read_log, read_validations
from mmkdprune.errors import UsageError
from mmkdprune.hardware import hardware
from mmkdprune.pruning.history import exchanged

# Every result has these.
REQUIRED = ("row", "group", "config", "config_sha256", "seed")
# and the figures of one task.
CLASSIFICATION = ("epochs_run", "epochs_planned", "top1_last", "top1_best")
FINE_TUNING = ("metric", "last", "best", "metrics_last")
TOP1 = "accuracy/top1"
# What a task is judged by: the first that a run has logged, and the factor that makes it percent.
METRICS = {TOP1: 1, "coco/bbox_mAP": 100, "pascal_voc/mAP": 100, "mIoU": 1}
_REMOVE_IT = "remove it, and the row is trained again"
LENGTHS = {"epoch": "epochs", "iter": "iterations"}
NOT_METRICS = ("step", "time", "data_time", "epoch", "iter", "memory")  # in the record of a validation
STEP = ("t", "rate", "decay", "hard_share", "pruned", "hard", "zero", "overlap", "final")


def make_result(
    row: Row, phase: Phase, command: str, jobs: int, threads: int, wall_s: float, memory_mib: int
) -> dict[str, Any]:
    """Collect the result of a finished row.

    Args:
        row: The row.
        phase: Its run.
        command: What trained it.
        jobs: How many rows ran at the same time.
        threads: Threads of each of them.
        wall_s: Seconds, all interruptions together.
        memory_mib: Peak resident set of the process.

    Returns:
        Plain types.

    Raises:
        UsageError: The end of the run was not validated.
    """
    settings = row.settings()
    log = read_log(phase.work_dir)
    steps = [entry["time"] for entry in log if "loss" in entry]
    result = {
        "row": row.name,
        "group": row.group,
        "config": relative_config(row.config),
        "config_sha256": row.hash,
        "overrides": row.overrides(),
        "seed": row.seed,
        **figures(row, phase),
        "images_per_s": round(settings.train_dataloader.batch_size / statistics.median(steps), 1) if steps else None,
        "wall_s": wall_s,
        "rows_at_once": jobs,
        "threads": threads,
        # on a GPU the allocator's peak as MMEngine logs it, on a CPU the peak resident set of the whole process
        "peak_memory_mib": max((entry["memory"] for entry in log if "memory" in entry), default=memory_mib),
        "hardware": hardware(threads=False),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "mmengine": mmengine.__version__,
            "mmpretrain": mmpretrain.__version__,
            "mmkdprune": mmkdprune.__version__,
        },
        **({"learns_from": [str(needed) for needed in row.needs.values()]} if row.needs else {}),
        "command": command,
        "date": date.today().isoformat(),
    }
    report = phase.work_dir / "pruning_report.json"
    if report.is_file():
        result["pruning"] = pruning_result(row, json.loads(report.read_text()))
    return result


def figures(row: Row, phase: Phase) -> dict[str, Any]:
    """Collect what a finished run has reached.

    Raises:
        UsageError: Its end was not validated, or by no metric that is known.
    """
    log, validations = read_log(phase.work_dir), read_validations(phase.work_dir)
    unit, number = phase.length
    if number not in validations:
        raise UsageError(
            f"the last validation of {phase.work_dir} is missing from its log, since it was interrupted: start the row "
            f"again, which repeats the last {'epoch' if unit == 'epoch' else 'iterations'}"
        )
    metric = next((name for name in METRICS if name in validations[number]), None)
    if metric is None:
        raise UsageError(f"{phase.work_dir} was validated by none of {', '.join(METRICS)}")
    values = {step: METRICS[metric] * entry[metric] for step, entry in validations.items() if metric in entry}
    best = max(values, key=lambda step: values[step])
    train_cfg = mmengine.Config.fromfile(row.config).train_cfg
    # a shortened run says so
    length = {f"{LENGTHS[unit]}_run": number, f"{LENGTHS[unit]}_planned": train_cfg[f"max_{unit}s"]}
    if metric == TOP1:
        return {
            **length,
            "top1_last": round(values[number], 4),
            "top1_best": round(values[best], 4),
            "best_epoch": best,
            "log": epoch_values(log, values, number),
        }
    others = {name: value for name, value in validations[number].items() if name not in NOT_METRICS}
    return {
        **length,
        "metric": metric,
        "last": round(values[number], 4),
        "best": round(values[best], 4),
        f"best_{unit}": best,
        "metrics_last": others,
        "log": [{unit: step, "value": round(value, 4)} for step, value in values.items()],
    }


def last_figure(result: dict[str, Any]) -> str:
    """What a row has reached at its end, in words."""
    if "top1_last" in result:
        return f"{result['top1_last']:.2f} %"
    return f"{result['metric']} {result['last']:.2f} %"


def epoch_values(log: list[dict[str, Any]], accuracies: dict[int, float], epochs: int) -> list[dict[str, float]]:
    """Mean training loss and accuracy of every epoch; one whose validation was interrupted has no accuracy."""
    losses: dict[int, dict[int, float]] = {}
    for entry in log:
        if "loss" in entry:
            losses.setdefault(entry["epoch"], {})[entry["step"]] = entry["loss"]
    values = []
    for epoch in range(1, epochs + 1):
        value: dict[str, float] = {"epoch": epoch}
        if epoch in losses:
            value["loss"] = round(statistics.mean(losses[epoch].values()), 4)
        if epoch in accuracies:
            value["top1"] = round(accuracies[epoch], 4)
        values.append(value)
    return values


def method_of(row: str, rate: float) -> str:
    """Method and policy of a pruned row: what its name has before the rate."""
    return re.split(rf"-{re.escape(f'{rate:g}')}(?:_|$)", row)[0]


def pruning_result(row: Row, report: dict[str, Any]) -> dict[str, Any]:
    """What a pruned run did, from its report."""
    last, rate = report["steps"][-1], report["settings"]["rate"]
    # of removed filters; single weights make nothing smaller
    reduction = (
        {"paper_flops_reduction": round(report["paper_flops"]["reduction"], 4)} if "paper_flops" in report else {}
    )
    return {
        "method": method_of(row.name, rate),
        "rate": rate,
        "top1_before": round(report["before_finalize"]["accuracy/top1"], 4),
        "top1_after": round(report["after_finalize"]["accuracy/top1"], 4),
        "zero": last["zero"],
        "filters": last["filters"],
        "exact_in_every_layer": all(
            layer["zero"] == math.floor(layer["filters"] * rate + 1e-9) for layer in last["layers"].values()
        ),
        **reduction,
        "exchanged": exchanged(report["steps"]),
        "steps": [{key: step[key] for key in STEP} for step in report["steps"]],
    }


def read_result(file: Path) -> dict[str, Any]:
    """Read a result file.

    Raises:
        UsageError: It is not a whole result.
    """
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{file} is damaged or half-written ({error}): {_REMOVE_IT}") from None
    if not isinstance(result, dict):
        raise UsageError(f"{file} is not a whole result: {_REMOVE_IT}")
    needed = (*REQUIRED, *(FINE_TUNING if "metric" in result else CLASSIFICATION))
    absent = [name for name in needed if name not in result]
    if absent:
        raise UsageError(f"{file} is not a whole result, it lacks {', '.join(absent)}: {_REMOVE_IT}")
    if file.name != f"train_{result['row']}_seed{result['seed']}.json":
        raise UsageError(f"{file} is the result of {result['row']}, seed {result['seed']}: rename or remove it")
    return result


def rows_without_result(rows: list[Row], folder: Path = RESULTS) -> list[Row]:
    """Leave out the rows whose result is there.

    Raises:
        UsageError: A result file is damaged, or of another config than the row's present one; all of these are named.
    """
    missing, stale = [], []
    for row in rows:
        file = folder / row.file_name
        if not file.is_file():
            missing.append(row)
        elif (found := read_result(file)["config_sha256"]) != row.hash:
            stale.append(f"{file} (hash {found}, now {row.hash})")
    if stale:
        raise UsageError(
            f"{len(stale)} stored results are of other configs than their rows have now: {'; '.join(stale)}. Nothing "
            "is replaced: move these files away to train the rows again, or give the rows other names in the queue"
        )
    return missing


def write_result(file: Path, result: dict[str, Any]) -> None:
    """Write a result file; an existing one stays as it is.

    Raises:
        FileExistsError: There is one already.
    """
    if file.exists():
        raise FileExistsError(f"{file} is there already and is not replaced")
    with atomic_write(file, "w") as stream:
        stream.write(json.dumps(result, indent=2) + "\n")
