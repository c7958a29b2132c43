"""Move a trained backbone into a detector, a segmentor or another classifier, and train that.

    mmkdprune transfer BACKBONE.pth --to mmkdprune::transfer/detection/faster-rcnn_r50_fpn_1x_coco.py
    mmkdprune transfer work_dirs/compact/compact.pth --to mmseg::fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py

BACKBONE.pth is what ``mmkdprune export`` exported, a checkpoint of a run, or what ``mmkdprune compact`` wrote. Whether
its keys and widths are those of the config's backbone is checked before anything trains; the adapted config, with the
widths of a compact backbone in neck and heads, is written beside the work dir and trained by ``mmkdprune train``.
"""

import argparse
from pathlib import Path

from .arguments import (
    add_config_options_argument,
    add_debug_argument,
    add_file_check_argument,
    add_processes_argument,
    check_processes,
)

HELP = "move a trained backbone into a detector, a segmentor or another classifier, and train that"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument("backbone", help="exported backbone, checkpoint of a run, or compact checkpoint")
    parser.add_argument("--to", required=True, metavar="CONFIG", help="config to start from: a path or package::path")
    parser.add_argument("--prefix", help="leading part of the backbone's keys in the file (default: backbone.)")
    parser.add_argument("--plan", help="plan.json of a compact backbone (default: the one in the checkpoint)")
    parser.add_argument("--keep-zeros", action="store_true", help="keep filters zero that pruning left at zero")
    parser.add_argument("--partial", action="store_true", help="accept keys that are missing or left over")
    parser.add_argument("--out", type=Path, help="file for the adapted config (default: WORK_DIR.py)")
    parser.add_argument("--work-dir", type=Path, help="folder of the run (default: work_dirs/<config>_from_<backbone>)")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--check-only", action="store_true", help="check, and write nothing")
    only.add_argument("--no-train", action="store_true", help="write the config and print the command that trains it")
    add_processes_argument(parser)
    parser.add_argument("--resume", action="store_true", help="go on with the run in the work dir")
    parser.add_argument("--overwrite", action="store_true", help="replace the config and the run of an earlier call")
    parser.add_argument("--amp", action="store_true", help="train in automatic mixed precision (GPU only)")
    parser.add_argument("--auto-scale-lr", action="store_true", help="scale the learning rate with the batch size")
    add_config_options_argument(parser, "settings of CONFIG before the backbone is moved into it")
    add_file_check_argument(parser)
    add_debug_argument(parser)


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse files that cannot be written, and a run without a name."""
    check_processes(parser, args)
    if args.out is not None and args.out.suffix != ".py":
        parser.error(f"--out is a Python config and ends in .py, got {args.out}")
    if args.out is None and args.work_dir is not None and not args.work_dir.name:
        parser.error(f"--work-dir {args.work_dir} has no name to call the config by: give --out, too")


def run(args: argparse.Namespace) -> None:
    """Check, write, train."""
    from mmkdprune.commands.transfer import run as transfer

    transfer(args)
