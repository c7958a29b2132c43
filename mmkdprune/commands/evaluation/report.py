"""Results of evaluations as JSON and as a Markdown table."""

import json
import platform
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from mmkdprune.checkpoint.atomic import atomic_write
from mmkdprune.errors import UsageError
from mmkdprune.hardware import hardware
from mmkdprune.version import __version__


def make_entry(
    evaluation: str, data: str, network: Mapping[str, Any], metrics: Mapping[str, Any], **settings: Any
) -> dict[str, Any]:
    """One evaluation of one network.

    Args:
        evaluation (str): What was done, such as ``linear probe, features extracted once``.
        data (str): On which data set.
        network (Mapping): ``EvaluatedBackbone.describe()``.
        metrics (Mapping): By name the accuracy in percent, or a pair of it and half the width of its interval.
        **settings (Any): How it was done.

    Returns:
        dict[str, Any]: Plain types.
    """
    values = {
        name: [round(float(part), 4) for part in value] if isinstance(value, Sequence) else round(float(value), 4)
        for name, value in metrics.items()
    }
    return {"evaluation": evaluation, "data": data, "network": dict(network), "metrics": values, "settings": settings}


def evaluation_report(entries: Iterable[Mapping[str, Any]], command: str) -> dict[str, Any]:
    """What goes into a result file: the entries, and what made them."""
    return {
        "evaluations": list(entries),
        "command": command,
        "hardware": hardware(threads=False),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "mmkdprune": __version__},
        "date": date.today().isoformat(),
    }


def write_report(path: Path, report: Mapping[str, Any], overwrite: bool = False) -> None:
    """Write a result file; an existing one stays unless told otherwise.

    Raises:
        UsageError: If it exists.
    """
    refuse_existing(path, overwrite)
    with atomic_write(path, "w", "utf-8") as stream:
        stream.write(json.dumps(report, indent=2) + "\n")


def refuse_existing(path: Path | None, overwrite: bool) -> None:
    """End before anything is computed when a file would be replaced.

    Raises:
        UsageError: If it exists.
    """
    if path is not None and path.exists() and not overwrite:
        raise UsageError(f"{path} exists already: give another name, or --overwrite")


def read_reports(files: Iterable[Path]) -> list[dict[str, Any]]:
    """All entries of several result files.

    Raises:
        UsageError: If a file is no result of an evaluation.
    """
    entries: list[dict[str, Any]] = []
    for file in files:
        if not file.is_file():
            raise UsageError(f"there is no file {file}")
        try:
            entries += json.loads(file.read_text(encoding="utf-8"))["evaluations"]
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"{file} is no result of an evaluation tool (--out)") from None
    return entries


def network_name(network: Mapping[str, Any]) -> str:
    """How a network is called in a table: its run's name where known, else its checkpoint; without the seed."""
    if network.get("weights") == "random":
        return f"{network['backbone']}, random initialisation"
    name = network.get("run") or network["checkpoint"]
    peer = f", peer {network['peer']}" if network.get("peer") else ""
    return f"{name}{peer}"


def markdown_table(entries: Sequence[Mapping[str, Any]]) -> str:
    """Put evaluations into a table: networks in rows, figures in columns.

    Runs of one name that differ in their seed are one row, with mean and standard deviation over the seeds; a single
    figure with an interval shows that instead. Columns name the evaluation where there are several.
    """
    several = len({entry["evaluation"] for entry in entries}) > 1
    values: dict[tuple[str, str], dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    columns: dict[str, None] = {}
    for entry in entries:
        for metric, value in entry["metrics"].items():
            column = f"{entry['evaluation']}: {metric}" if several else metric
            columns.setdefault(column)
            values[entry["data"], network_name(entry["network"])][column].append(value)
    lines = [f"| data | network | {' | '.join(columns)} |", "|---" * (2 + len(columns)) + "|"]
    for (data, name), row in values.items():
        cells = [_cell(row[column]) if column in row else "" for column in columns]
        lines.append(f"| {data} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(values: list[Any]) -> str:
    means = [value[0] if isinstance(value, Sequence) else value for value in values]
    if len(values) == 1:
        interval = f" ± {values[0][1]:.2f}" if isinstance(values[0], Sequence) else ""
        return f"{means[0]:.2f}{interval}"
    return f"{statistics.mean(means):.2f} ± {statistics.stdev(means):.2f} ({len(means)} runs)"
