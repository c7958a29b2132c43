"""Pretrain backbones, move them into a detector and a segmentor, and compare.

    mmkdprune chain [--seeds 0 1 2] [--only detection report] [--skip segmentation]

The backbones: ``scratch`` (random weights), ``plain`` (pretrained as usual), ``mixskd`` (pretrained with MixSKD) and
``compact`` (pretrained with MixSKD while GHFP prunes, then made physically small). The stages: pretrain, compact,
detection, segmentation, report. All data are composed of scanned digits: nothing is downloaded. A run that is finished
is used as it is, one that was interrupted goes on: repeat the command.
"""

import argparse
from pathlib import Path

from .arguments import add_debug_argument, add_file_check_argument

HELP = "pretrain backbones, move them into a detector and a segmentor, and compare"
# Those of mmkdprune.commands.chain.stages.
STAGES = ("pretrain", "compact", "detection", "segmentation", "report")
BACKBONES = ("scratch", "plain", "mixskd", "compact")
CONFIGS = {
    "plain": "mixskd/plain_resnet18-w16_1xb64-20e_digits-32px.py",
    "mixskd": "mixskd/mixskd_resnet18-w16_1xb64-20e_digits-32px.py",
    "compact": "combined/mixskd-ghfp-asrfp_resnet18-w16_1xb64-20e_digits-32px.py",
    "detection": "transfer/detection/retinanet_r18-w16_fpn_1xb8-8e_digit-scenes.py",
    "segmentation": "transfer/segmentation/fpn_r18-w16_1xb8-400_digit-scenes-128x128.py",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/chain"), help="folder of all runs")
    parser.add_argument("--report", type=Path, help="folder of table, curves and pictures (default: WORK_DIR/report)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="repeat everything with each (default: 0)")
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES), help="rows of the table")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--only", nargs="+", choices=STAGES, default=[], help="stages to go through")
    chosen.add_argument("--skip", nargs="+", choices=STAGES, default=[], help="stages to leave out")
    for name, default in CONFIGS.items():
        parser.add_argument(f"--{name}", metavar="CONFIG", help=f"default: mmkdprune::{default}")
    for stage in ("pretrain", "detection", "segmentation"):
        parser.add_argument(
            f"--{stage}-options", nargs="+", default=[], metavar="KEY=VALUE", help=f"override settings in {stage} runs"
        )
    parser.add_argument("--pictures", type=int, default=4, help="validation images to draw (default: 4; 0: none)")
    add_file_check_argument(parser)
    add_debug_argument(parser)


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse numbers and lists that make no sense."""
    if args.pictures < 0:
        parser.error(f"--pictures must be 0 or more, got {args.pictures}")
    for name in ("seeds", "backbones"):
        if len(set(getattr(args, name))) < len(getattr(args, name)):
            parser.error(f"--{name} names one twice: {' '.join(map(str, getattr(args, name)))}")


def run(args: argparse.Namespace) -> None:
    """Run the chain."""
    from mmkdprune.commands.run_chain import run as run_chain

    run_chain(args, CONFIGS)
