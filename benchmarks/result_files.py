"""What a training row leaves behind: one JSON file."""

import json
import math
import os
import platform
import statistics
from datetime import date
from pathlib import Path
from typing import Any

import mmengine
import mmpretrain
import torch
from rows import Row, config_hash, relative_config

import mmkdprune
from mmkdprune.compat.atomic import atomic_write
from mmkdprune.utils.command_line import UsageError
from mmkdprune.utils.pipeline import Phase
from mmkdprune.utils.run_log import read_accuracies, read_log

STEP = ("t", "rate", "decay", "hard_share", "pruned", "hard", "zero", "final")


def make_result(
    row: Row, phases: list[Phase], command: str, jobs: int, wall_s: float, memory_mib: int
) -> dict[str, Any]:
    """Collect the result of a finished row.

    Args:
        row: The row.
        phases: Its runs, its own last.
        command: What trained it.
        jobs: How many rows ran at the same time.
        wall_s: Seconds, all phases and interruptions together.
        memory_mib: Peak resident set of the processes.

    Returns:
        Plain types.

    Raises:
        UsageError: The last epoch was not validated.
    """
    work_dir = phases[-1].work_dir
    settings = row.settings()
    log, accuracies = read_log(work_dir), read_accuracies(work_dir)
    planned = settings.train_cfg.max_epochs
    if planned not in accuracies:
        raise UsageError(
            f"the last validation of {work_dir} is missing from its log, since it was interrupted: start the row "
            "again, which repeats the last epoch"
        )
    best = max(accuracies, key=lambda epoch: accuracies[epoch])
    epochs_run = planned
    steps = [entry["time"] for entry in log if "loss" in entry]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    result = {
        "row": row.name,
        "group": row.group,
        "config": relative_config(row.config),
        "config_sha256": config_hash(settings),
        "overrides": row.overrides(),
        "seed": row.seed,
        "epochs_run": epochs_run,
        # a shortened run says so
        "epochs_planned": mmengine.Config.fromfile(row.config).train_cfg.max_epochs,
        "top1_last": round(accuracies[epochs_run], 4),
        "top1_best": round(accuracies[best], 4),
        "best_epoch": best,
        "log": epoch_values(log, accuracies, epochs_run),
        "images_per_s": round(settings.train_dataloader.batch_size / statistics.median(steps), 1),
        "wall_s": wall_s,
        "runs_timed": len(phases),  # more than 1: a teacher was trained within that time, too
        "rows_at_once": jobs,
        # on a GPU the allocator's peak as MMEngine logs it, on a CPU the peak resident set of the whole process
        "peak_memory_mib": max((entry["memory"] for entry in log if "memory" in entry), default=memory_mib),
        "hardware": gpu or f"{platform.machine()} CPU, {os.cpu_count()} cores",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "mmengine": mmengine.__version__,
            "mmpretrain": mmpretrain.__version__,
            "mmkdprune": mmkdprune.__version__,
        },
        "command": command,
        "date": date.today().isoformat(),
    }
    report = work_dir / "pruning_report.json"
    if report.is_file():
        result["pruning"] = pruning_result(row, json.loads(report.read_text()))
    return result


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


def pruning_result(row: Row, report: dict[str, Any]) -> dict[str, Any]:
    """What a pruned run did, from its report."""
    last, rate = report["steps"][-1], report["settings"]["rate"]
    # of removed filters; single weights make nothing smaller
    reduction = (
        {"paper_flops_reduction": round(report["paper_flops"]["reduction"], 4)} if "paper_flops" in report else {}
    )
    return {
        "method": row.name.split("_")[0].removesuffix(f"-{rate:g}"),
        "rate": rate,
        "top1_before": round(report["before_finalize"]["accuracy/top1"], 4),
        "top1_after": round(report["after_finalize"]["accuracy/top1"], 4),
        "zero": last["zero"],
        "filters": last["filters"],
        "exact_in_every_layer": all(
            layer["zero"] == math.floor(layer["filters"] * rate + 1e-9) for layer in last["layers"].values()
        ),
        **reduction,
        "steps": [{key: step[key] for key in STEP} for step in report["steps"]],
    }


def write_result(file: Path, result: dict[str, Any]) -> None:
    """Write a result file; an existing one stays as it is.

    Raises:
        FileExistsError: There is one already.
    """
    if file.exists():
        raise FileExistsError(f"{file} is there already and is not replaced")
    with atomic_write(file, "w") as stream:
        stream.write(json.dumps(result, indent=2) + "\n")
