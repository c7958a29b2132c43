"""Move a trained backbone into a detector, a segmentor or another classifier, and train that.

    python tools/transfer.py BACKBONE.pth --to configs/transfer/detection/faster-rcnn_r50_fpn_1x_coco.py
    python tools/transfer.py work_dirs/compact/compact.pth --to mmseg::fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py

BACKBONE.pth is what tools/export_backbone.py exported, a checkpoint of a run, or what tools/compact.py wrote. Whether
its keys and widths are those of the config's backbone is checked before anything trains; the adapted config, with the
widths of a compact backbone in neck and heads, is written beside the work dir and trained by tools/train.py.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

try:
    import mmkdprune  # noqa: F401  (checks the installed versions)
except ImportError as problem:
    absent = isinstance(problem, ModuleNotFoundError) and problem.name == "mmkdprune"
    sys.exit(f"error: {problem}" + ("; run `pip install -e .` in its clone" if absent else ""))

from mmengine.config import DictAction

from mmkdprune.commands.command_line import add_file_check_argument, readable_errors
from mmkdprune.config.reading import read_config
from mmkdprune.deploy.transfer import Transfer, transfer_backbone, transfer_name, write_config

TOOLS = Path(__file__).resolve().parent


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    parser.add_argument("--gpus", type=int, default=1, help="processes (more than 1: tools/dist_train.sh)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the work dir")
    parser.add_argument("--overwrite", action="store_true", help="replace the config and the run of an earlier call")
    parser.add_argument("--amp", action="store_true", help="train in automatic mixed precision (GPU only)")
    parser.add_argument("--auto-scale-lr", action="store_true", help="scale the learning rate with the batch size")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        help="override settings of CONFIG before the backbone is moved into it: key=value pairs",
    )
    add_file_check_argument(parser)
    parser.add_argument("--debug", action="store_true", help="show the full traceback of every error")
    args = parser.parse_args()
    if args.gpus < 1:
        parser.error(f"--gpus must be 1 or more, got {args.gpus}")
    if args.out is not None and args.out.suffix != ".py":
        parser.error(f"--out is a Python config and ends in .py, got {args.out}")
    if args.out is None and args.work_dir is not None and not args.work_dir.name:
        parser.error(f"--work-dir {args.work_dir} has no name to call the config by: give --out, too")
    return args


def print_report(transfer: Transfer, args: argparse.Namespace) -> None:
    """Say how the backbone fits and what was changed."""
    form = "compact" if transfer.is_compact else "dense"
    print(f"{args.backbone} in {args.to}, {form} backbone: {transfer.report.line()}")
    print(f"  feature maps: {', '.join(map(str, transfer.channels)) or 'not known'} channels")
    zero, filters = transfer.zeros
    if zero and args.keep_zeros:
        print(f"  {zero} of {filters} filters are zero and stay so")
    for note in transfer.notes:
        print(f"  {note}")


def train_command(config: Path, work_dir: Path, args: argparse.Namespace) -> list[str]:
    """Return the command that trains the adapted config."""
    if args.gpus > 1:
        command = ["bash", str(TOOLS / "dist_train.sh"), str(config), str(args.gpus)]
    else:
        command = [sys.executable, str(TOOLS / "train.py"), str(config)]
    command += ["--work-dir", str(work_dir)]
    names = ("resume", "overwrite", "amp", "auto_scale_lr", "debug")
    return command + [f"--{name.replace('_', '-')}" for name in names if getattr(args, name)]


def main() -> None:
    """Check, write, train; see the module's docstring."""
    args = parse_args()
    with readable_errors(args.debug, building=True):
        config = read_config(args.to, args.cfg_options)
        transfer = transfer_backbone(args.backbone, config, args.prefix, args.plan, args.keep_zeros, args.partial)
        print_report(transfer, args)
        if args.check_only:
            return
        work_dir = args.work_dir or Path("work_dirs") / transfer_name(args.backbone, args.to)
        out = args.out or work_dir.with_name(f"{work_dir.name}.py")
        write_config(transfer, out, args.overwrite)
        print(f"  config: {out}")
    command = train_command(out, work_dir, args)
    print(f"\n$ {shlex.join(command)}", flush=True)
    if not args.no_train:
        os.environ.setdefault("PYTHON", sys.executable)  # for tools/dist_train.sh
        # Replaced, not started: signals, exit code and the command that resumes are then tools/train.py's own.
        os.execvp(command[0], command)


if __name__ == "__main__":
    main()
