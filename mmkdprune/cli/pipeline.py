"""Train a config and, before it, the networks it learns from: a teacher, and what the teacher starts from.

    mmkdprune pipeline mmkdprune::hsakd/hsakd_resnet20_resnet8_1xb64-12e_digits-16px.py

Each run has a folder of its own in the work dir, named after its config, which is also where ``mmkdprune train`` would
put it. A run that is finished there is used as it is, one that was interrupted goes on: repeat the command after
Ctrl-C, without --overwrite if it was given.
"""

import argparse
from pathlib import Path

from .arguments import (
    add_debug_argument,
    add_file_check_argument,
    add_processes_argument,
    add_speed_argument,
    check_processes,
)

HELP = "train a config and, before it, the networks it learns from"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument("config", help="config of the last run, a path or package::path")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs"), help="folder of the runs' folders")
    add_processes_argument(parser)
    parser.add_argument("--overwrite", action="store_true", help="train all runs anew; what is there is lost")
    parser.add_argument("--amp", action="store_true", help="train in automatic mixed precision (GPU only)")
    add_speed_argument(parser)
    parser.add_argument("--auto-scale-lr", action="store_true", help="scale the learning rate with the batch size")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="override settings, key=value: those of model.* in CONFIG alone, all others in every run. "
        "model.teacher.checkpoint=FILE takes a teacher that is there already",
    )
    add_file_check_argument(parser)
    add_debug_argument(parser)


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse numbers of processes that there cannot be."""
    check_processes(parser, args)


def run(args: argparse.Namespace) -> None:
    """Train the runs one after the other."""
    from mmkdprune.commands.train_pipeline import run as train_pipeline

    train_pipeline(args)
