"""Measure how much accuracy each layer costs when it is pruned, and suggest rates of layers for a target.

    mmkdprune sensitivity CONFIG CHECKPOINT [--target-macs 0.5] [--out DIR]

Each layer, or group of layers with one mask, is pruned alone at several rates, BatchNorm statistics are computed anew
on a few training images, and the config's own evaluator tells what is left on a few validation images, which are loaded
once. Works for classifiers, detectors and segmentors. DIR gets sensitivity.json, a picture, and sensitivity_prune.py,
which trains with the suggested rates as a second base of a config. Repeat the command after an interruption, or with
other rates or targets: it goes on with what has been measured.
"""

import argparse
from pathlib import Path

from .arguments import (
    add_config_options_argument,
    add_debug_argument,
    add_file_check_argument,
    add_weights_argument,
)

HELP = "accuracy against pruning rate of each layer, and rates for a target"
RATES = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9)
# Those of mmkdprune.pruning that need no training.
CRITERIA = ("l2", "l1", "fpgm", "bn_scale", "random")
ROUND_TO = 8  # that of mmkdprune.pruning.budget


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument("config", help="config of the run, or package::path of one in an installed package")
    parser.add_argument("checkpoint", type=Path, help="a checkpoint of the dense network")
    parser.add_argument("--out", type=Path, help="folder to write to (default: the checkpoint's)")
    parser.add_argument(
        "--rates", type=float, nargs="+", default=list(RATES), help=f"default: {' '.join(map(str, RATES))}"
    )
    parser.add_argument(
        "--coupling",
        choices=["group", "independent"],
        default="group",
        help="prune all layers together whose outputs meet (group, the default), or each by itself",
    )
    parser.add_argument("--criterion", choices=CRITERIA, default="l2", help="ranks the filters (default: l2)")
    parser.add_argument("--include", nargs="+", metavar="PATTERN", help="only layers that match a regular expression")
    parser.add_argument("--exclude", nargs="+", metavar="PATTERN", help="no layers that match a regular expression")
    parser.add_argument("--images", type=int, default=512, help="validation images of a point (default: 512)")
    parser.add_argument(
        "--recalibration-images",
        type=int,
        default=256,
        help="training images for BatchNorm statistics of a point (default: 256; 0: they stay as they are)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of images (default: 0)")
    parser.add_argument("--metric", help="of the evaluator (default: the config's save_best, else the first)")
    target = parser.add_mutually_exclusive_group()
    target.add_argument(
        "--target-macs",
        type=float,
        metavar="SHARE",
        help="suggest rates with which the compact network has this share of the multiply-accumulates (default: 0.5, "
        "with --coupling group)",
    )
    target.add_argument("--target-params", type=float, metavar="SHARE", help="likewise of parameters")
    parser.add_argument(
        "--round-to",
        type=int,
        default=ROUND_TO,
        help=f"suggested widths are multiples of this (default: {ROUND_TO}; 1 for networks of few channels)",
    )
    parser.add_argument("--min-keep", type=int, default=1, help="fewest filters of a layer (default: 1)")
    add_weights_argument(parser)
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: a GPU where there is one)")
    parser.add_argument("--overwrite", action="store_true", help="measure anew, whatever there is")
    add_config_options_argument(parser)
    add_file_check_argument(parser)
    add_debug_argument(parser)


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse numbers out of range, and a target that cannot be met."""
    for rate in args.rates:
        if not 0 < rate < 1:
            parser.error(f"--rates must lie between 0 and 1, both excluded, got {rate:g}")
    for name, low in (("images", 1), ("recalibration_images", 0), ("seed", 0), ("round_to", 1), ("min_keep", 1)):
        if getattr(args, name) < low:
            parser.error(f"--{name.replace('_', '-')} must be {low} or more, got {getattr(args, name)}")
    for name in ("target_macs", "target_params"):
        share = getattr(args, name)
        if share is None:
            continue
        if not 0 < share <= 1:
            parser.error(f"--{name.replace('_', '-')} is the share to be left, above 0 and at most 1, got {share:g}")
        if args.coupling != "group":
            parser.error(
                "--coupling independent leaves it to chance which filters can be removed, so that no target can be "
                "met: leave out the target, or take --coupling group"
            )


def run(args: argparse.Namespace) -> None:
    """Measure and suggest."""
    from mmkdprune.commands.sensitivity import run as sensitivity

    sensitivity(args)
