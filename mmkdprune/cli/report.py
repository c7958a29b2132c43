"""Make the report of a pruned run (JSON and picture) from one of its checkpoints, or the picture from a report.

mmkdprune report work_dirs/RUN/epoch_20.pth [--out DIR]
mmkdprune report work_dirs/RUN/pruning_report.json --out DIR
mmkdprune report work_dirs/RUN/20260101_120000/vis_data/scalars.json --out DIR
"""

import argparse
from pathlib import Path

from .arguments import add_debug_argument, add_file_check_argument

HELP = "make the report of a pruned run: JSON and picture"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument("source", type=Path, help="checkpoint, pruning_report.json or scalars.json of a run")
    parser.add_argument("--out", type=Path, help="folder to write to (default: the source's)")
    add_file_check_argument(parser)
    add_debug_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Write the report."""
    from mmkdprune.commands.pruning_report import run as pruning_report

    pruning_report(args)
