"""Make the report of a pruned run: ``mmkdprune report``."""

import argparse
import json
from pathlib import Path

from mmkdprune.checkpoint.loading import load_checkpoint_file
from mmkdprune.commands.command_line import readable_errors
from mmkdprune.errors import UsageError
from mmkdprune.pruning import make_report, report_from_scalars, save_report


def read(source: Path) -> dict:
    """Make the report's dictionary from a checkpoint, a report or a log of scalars.

    Raises:
        UsageError: If the file holds no pruning.
    """
    if not source.is_file():
        raise UsageError(f"there is no file {source}")
    if source.suffix == ".json":
        lines = source.read_text(encoding="utf-8").splitlines()
        if len(lines) > 1 and lines[0].strip() == "{":
            report = json.loads("\n".join(lines))
        else:
            report = report_from_scalars([json.loads(line) for line in lines if line.strip()])
        if not report.get("steps"):
            raise UsageError(f"{source} holds no prune steps: is it of a run with FilterPruningHook?")
        return report
    state = (load_checkpoint_file(source).get("mmkdprune") or {}).get("pruning")
    if state is None:
        raise UsageError(f"{source} holds no pruning state: is it of a run with FilterPruningHook?")
    return make_report(state, method=state["method"], **state["results"])


def run(args: argparse.Namespace) -> None:
    """Write the report; see :mod:`mmkdprune.cli.report`."""
    with readable_errors(args.debug):
        for file in save_report(read(args.source), args.out or args.source.parent):
            print(file)
