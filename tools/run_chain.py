"""Pretrain backbones, move them into a detector and a segmentor, and compare: ``make chain``.

    python tools/run_chain.py [--seeds 0 1 2] [--only detection report] [--skip segmentation]

The backbones: ``scratch`` (random weights), ``plain`` (pretrained as usual), ``mixskd`` (pretrained with MixSKD) and
``compact`` (pretrained with MixSKD while GHFP prunes, then made physically small). The stages: pretrain, compact,
detection, segmentation, report. All data are composed of scanned digits: nothing is downloaded. A run that is finished
is used as it is, one that was interrupted goes on: repeat the command.
"""

import argparse
import shlex
import sys
from pathlib import Path

try:
    import mmkdprune  # noqa: F401  (checks the installed versions)
except ImportError as problem:
    absent = isinstance(problem, ModuleNotFoundError) and problem.name == "mmkdprune"
    sys.exit(f"error: {problem}" + ("; run `pip install -e .` in its clone" if absent else ""))

from mmkdprune.commands.chain.report import write_report
from mmkdprune.commands.chain.stages import BACKBONES, STAGES, Chain
from mmkdprune.commands.command_line import add_file_check_argument, readable_errors
from mmkdprune.commands.run_lock import RunLock

TOOLS = Path(__file__).resolve().parent
CONFIGS = TOOLS.parent / "configs"
DEFAULTS = {
    "plain": "mixskd/plain_resnet18-w16_1xb64-20e_digits-32px.py",
    "mixskd": "mixskd/mixskd_resnet18-w16_1xb64-20e_digits-32px.py",
    "compact": "combined/mixskd-ghfp-asrfp_resnet18-w16_1xb64-20e_digits-32px.py",
    "detection": "transfer/detection/retinanet_r18-w16_fpn_1xb8-8e_digit-scenes.py",
    "segmentation": "transfer/segmentation/fpn_r18-w16_1xb8-400_digit-scenes-128x128.py",
}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/chain"), help="folder of all runs")
    parser.add_argument("--report", type=Path, help="folder of table, curves and pictures (default: WORK_DIR/report)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="repeat everything with each (default: 0)")
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES), help="rows of the table")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--only", nargs="+", choices=STAGES, default=[], help="stages to go through")
    chosen.add_argument("--skip", nargs="+", choices=STAGES, default=[], help="stages to leave out")
    for name, default in DEFAULTS.items():
        parser.add_argument(f"--{name}", default=CONFIGS / default, metavar="CONFIG", help=f"default: {default}")
    for stage in ("pretrain", "detection", "segmentation"):
        parser.add_argument(
            f"--{stage}-options", nargs="+", default=[], metavar="KEY=VALUE", help=f"override settings in {stage} runs"
        )
    parser.add_argument("--pictures", type=int, default=4, help="validation images to draw (default: 4; 0: none)")
    add_file_check_argument(parser)
    parser.add_argument("--debug", action="store_true", help="show the full traceback of every error")
    args = parser.parse_args()
    if args.pictures < 0:
        parser.error(f"--pictures must be 0 or more, got {args.pictures}")
    for name in ("seeds", "backbones"):
        if len(set(getattr(args, name))) < len(getattr(args, name)):
            parser.error(f"--{name} names one twice: {' '.join(map(str, getattr(args, name)))}")
    return args


def main() -> None:
    """Run the chain; see the module's docstring."""
    args = parse_args()
    chain = Chain(
        work_dir=args.work_dir,
        tools=TOOLS,
        configs={name: _readable(getattr(args, name)) for name in DEFAULTS},
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
            command = shlex.join(["python", "tools/run_chain.py", *sys.argv[1:]])
            print(f"\n{write_report(chain, folder, command, args.pictures)}\n{folder}: table, curves, predictions")


def _readable(path: Path | str) -> str:
    """A path as the user would write it."""
    path = str(path)
    here = str(Path.cwd()) + "/"
    return path.removeprefix(here)


if __name__ == "__main__":
    main()
