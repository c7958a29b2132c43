"""Train, prune, compact and report on scanned digits.

    mmkdprune demo [--work-dir DIR]

MixSKD trains a network while GHFP prunes it; its backbone is exported, the zeros are removed, and the small network is
tested beside the large one. Runs the commands that it prints, nothing else. Needs no download and no GPU.
"""

import argparse
from pathlib import Path

HELP = "train, prune and compact a network on scanned digits, in a few minutes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/demo"), help="where to write")


def run(args: argparse.Namespace) -> None:
    """Run the demo."""
    from mmkdprune.commands.demo import run as demo

    demo(args)
