"""Move a trained backbone into another model, and train that: ``mmkdprune transfer``."""

import argparse
import os
from pathlib import Path

from mmkdprune.commands.command_line import readable_errors
from mmkdprune.commands.processes import as_typed, command_line
from mmkdprune.config.reading import read_config
from mmkdprune.deploy.transfer import Transfer, transfer_backbone, transfer_name, write_config


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
    command = command_line("train", config, "--work-dir", work_dir)
    command += ["--gpus", str(args.gpus)] if args.gpus > 1 else []
    names = ("resume", "overwrite", "amp", "auto_scale_lr", "debug")
    return command + [f"--{name.replace('_', '-')}" for name in names if getattr(args, name)]


def run(args: argparse.Namespace) -> None:
    """Check, write, train; see :mod:`mmkdprune.cli.transfer`."""
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
    print(f"\n$ {as_typed(command)}", flush=True)
    if not args.no_train:
        # Replaced, not started: signals, exit code and the command that resumes are then those of the training.
        os.execvp(command[0], command)
