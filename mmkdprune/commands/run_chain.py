"""Pretrain backbones, move them into a detector and a segmentor, and compare: ``mmkdprune chain``."""

import argparse
import shlex
import sys
from collections.abc import Mapping

from mmkdprune.commands.chain.report import write_report
from mmkdprune.commands.chain.stages import STAGES, Chain
from mmkdprune.commands.command_line import readable_errors
from mmkdprune.commands.run_lock import RunLock
from mmkdprune.config.shipped import config_name


def run(args: argparse.Namespace, configs: Mapping[str, str]) -> None:
    """Run the chain; see :mod:`mmkdprune.cli.chain`.

    Args:
        args (argparse.Namespace): Of the command line.
        configs (Mapping[str, str]): For each argument that names a config its default, below ``configs``.
    """
    chain = Chain(
        work_dir=args.work_dir,
        configs={name: getattr(args, name) or config_name(default) for name, default in configs.items()},
        options={stage: getattr(args, f"{stage}_options") for stage in ("pretrain", "detection", "segmentation")},
        backbones=args.backbones,
        stages=args.only or [stage for stage in STAGES if stage not in args.skip],
        seeds=args.seeds,
        debug=args.debug,
    )
    with readable_errors(args.debug, building=True), RunLock(args.work_dir, "chain"):
        chain.run()
        if "report" in chain.stages:
            folder = args.report or args.work_dir / "report"
            command = shlex.join(["mmkdprune", "chain", *sys.argv[1:]])
            print(f"\n{write_report(chain, folder, command, args.pictures)}\n{folder}: table, curves, predictions")
