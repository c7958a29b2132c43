"""Evaluate a checkpoint.

    mmkdprune test CONFIG work_dirs/<run>/epoch_20.pth

Takes the flags of MMPretrain's own tool. Beyond it: a checkpoint that does not fill the deployable network is an error
(MMEngine would test random weights), and train-only parts in the checkpoint are counted, not complained about.
"""

import argparse

from .arguments import add_processes_argument, add_run_arguments, check_processes

HELP = "evaluate a checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument("config", help="config file, or package::path of a config in an installed package")
    parser.add_argument("checkpoint", help="checkpoint of a run, or an exported classifier")
    parser.add_argument("--work-dir", help="folder of the log with the metrics")
    parser.add_argument("--out", help="file for the results (.pkl; metrics also .json or .yml)")
    parser.add_argument("--out-item", choices=["metrics", "pred"], help="what --out holds (default: pred)")
    add_processes_argument(parser)
    parser.add_argument("--amp", action="store_true", help="test in automatic mixed precision")
    parser.add_argument("--show-dir", help="folder for images with their predictions")
    parser.add_argument("--show", action="store_true", help="show images with their predictions in a window")
    parser.add_argument("--interval", type=int, default=1, help="show every n-th image")
    parser.add_argument("--wait-time", type=float, default=2, help="seconds that a window stays")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation (the config's, or a flip)")
    parser.add_argument("--verbose", action="store_true", help="show the whole log before testing, not a summary")
    add_run_arguments(parser)


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse what does not go together, and a file that cannot be written: now, not after the whole test."""
    check_processes(parser, args)
    if args.out is None:
        if args.out_item is not None:
            parser.error("--out-item says what the file of --out holds: give --out too")
        return
    allowed = [".pkl", ".pickle", *([".json", ".yml", ".yaml"] if args.out_item == "metrics" else [])]
    if not args.out.endswith(tuple(allowed)):
        hint = "" if args.out_item == "metrics" else "; the metrics, which go into .json too, are --out-item metrics"
        parser.error(f"--out {args.out}: {args.out_item or 'pred'} is written to {', '.join(allowed)}{hint}")


def run(args: argparse.Namespace) -> None:
    """Test, in one process or several."""
    if args.gpus > 1:
        from mmkdprune.commands.launch import start_again

        start_again("test", args)
    else:
        from mmkdprune.commands.test import run as test

        test(args)
