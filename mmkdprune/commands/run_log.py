"""What a finished run has logged."""

import json
from pathlib import Path
from typing import Any


def read_log(work_dir: str | Path) -> list[dict[str, Any]]:
    """Read the log of a run, with all of its interruptions and resumptions, without runs that it has overwritten.

    Args:
        work_dir: The run's folder.

    Returns:
        The records of MMEngine's ``scalars.json`` files, oldest first.
    """
    logs = sorted(Path(work_dir).glob("[0-9]*/vis_data/scalars.json"))
    return [json.loads(line) for log in logs for line in log.read_text(encoding="utf-8").splitlines()]


def read_validations(work_dir: str | Path) -> dict[int, dict[str, Any]]:
    """Read all metrics of every validation.

    Args:
        work_dir: The run's folder.

    Returns:
        Records by epoch (of an iteration-based run by iteration), in order. A validation that was repeated after an
        interruption counts once.
    """
    latest = {row["step"]: row for row in read_log(work_dir) if "step" in row and "loss" not in row}
    return {step: latest[step] for step in sorted(latest)}


def read_accuracies(work_dir: str | Path) -> dict[int, float]:
    """Read the validation accuracy of the deployable network after every validated epoch, in percent.

    Args:
        work_dir: The run's folder.

    Returns:
        ``accuracy/top1`` by epoch (of an iteration-based run by iteration), in order. An epoch that was trained again
        after an interruption counts once; one whose validation was interrupted is missing.
    """
    latest = {row["step"]: row["accuracy/top1"] for row in read_log(work_dir) if "accuracy/top1" in row}
    return {step: latest[step] for step in sorted(latest)}
