"""Train a config and, before it, the networks it learns from: ``mmkdprune pipeline``."""

import argparse

from mmkdprune.commands.command_line import readable_errors
from mmkdprune.commands.pipeline import Phase, plan_phases
from mmkdprune.commands.processes import command_line, run_command
from mmkdprune.commands.run_lock import RunLock
from mmkdprune.commands.run_log import read_accuracies


def command_of(phase: Phase, args: argparse.Namespace) -> list[str]:
    """Return the command that trains or resumes a run."""
    command = command_line("train", phase.name, "--work-dir", phase.work_dir)
    command += ["--gpus", str(args.gpus)] if args.gpus > 1 else []
    flags = {
        "--amp": args.amp,
        "--speed": args.speed,
        "--no-speed": args.speed is False,
        "--auto-scale-lr": args.auto_scale_lr,
        "--debug": args.debug,
    }
    command += [flag for flag, is_set in flags.items() if is_set]
    if args.overwrite:
        command.append("--overwrite")
    elif phase.is_started():
        command.append("--resume")
    return command + (["--cfg-options", *phase.options] if phase.options else [])


def run(args: argparse.Namespace) -> None:
    """Run the phases; see :mod:`mmkdprune.cli.pipeline`."""
    with readable_errors(args.debug, building=True):
        phases = plan_phases(args.config, args.cfg_options, args.work_dir, args.speed)
        # Each run has a lock of its own; this one is for the time between them.
        with RunLock(phases[-1].work_dir, "pipeline"):
            for number, phase in enumerate(phases, start=1):
                label = f"run {number} of {len(phases)} ({phase.stem})"
                if not args.overwrite and phase.is_done():
                    print(f"{label}: done already, {phase.final_checkpoint}", flush=True)
                else:
                    # Repeated as it is, --overwrite would remove what is finished.
                    again = "the same command" + (" without --overwrite" if args.overwrite else "")
                    run_command(command_of(phase, args), label, f"{again} goes on from there")
                if number < len(phases):
                    phase.check_final_checkpoint()
    print()
    for phase in phases:
        history = list(read_accuracies(phase.work_dir).values())
        accuracy = f"{history[-1]:.2f} % at the end, {max(history):.2f} % at best" if history else "no accuracy"
        print(f"{phase.stem}: {accuracy} ({phase.final_checkpoint})")
