"""Make the physically small network of a pruned run.

    mmkdprune compact CONFIG CHECKPOINT --out DIR [--divisor 8] [--no-check]

CONFIG and CHECKPOINT are those of a run with FilterPruningHook, of a classifier (also under a method of this package),
a detector or a segmentor. DIR gets the compact checkpoint, the plan, a config that fine-tunes and tests the network,
and a report with the lines that use the backbone in other configs.
"""

import argparse
from pathlib import Path

from .arguments import add_debug_argument, add_file_check_argument, add_image_size_argument, add_weights_argument

HELP = "make the physically small network of a pruned run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument("config", help="config of the run")
    parser.add_argument("checkpoint", type=Path, help="its last checkpoint, or a classifier exported from it")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument(
        "--divisor", type=int, default=1, help="round the channels of every layer up to a multiple of this (default: 1)"
    )
    parser.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compare with the pruned network on random images of two sizes (default: yes)",
    )
    parser.add_argument(
        "--scatter",
        action="store_true",
        help="with masks of single layers: shrink convolutions at the end of residual branches, too",
    )
    add_weights_argument(parser)
    add_image_size_argument(parser, "what the run pruned with, else 224 224")
    parser.add_argument("--batch-size", type=int, default=1, help="images in a timed pass (default: 1)")
    add_file_check_argument(parser)
    add_debug_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Compact."""
    from mmkdprune.commands.compact import run as compact

    compact(args)
