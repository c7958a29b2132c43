"""Train a config and, before it, the networks it learns from: a teacher, and what the teacher starts from.

    python tools/train_pipeline.py configs/hsakd/hsakd_resnet20_resnet8_1xb64-12e_digits-16px.py

Each run has a folder of its own in the work dir, named after its config, which is also where tools/train.py would put
it. A run that is finished there is used as it is, one that was interrupted goes on: repeat the command after Ctrl-C,
without --overwrite if it was given.
"""

import argparse
import os
import sys
from pathlib import Path

try:
    import mmkdprune  # noqa: F401  (checks the installed versions)
except ImportError as problem:
    absent = isinstance(problem, ModuleNotFoundError) and problem.name == "mmkdprune"
    sys.exit(f"error: {problem}" + ("; run `pip install -e .` in its clone" if absent else ""))

from mmkdprune.commands.command_line import add_file_check_argument, readable_errors
from mmkdprune.commands.pipeline import Phase, plan_phases
from mmkdprune.commands.processes import run_command
from mmkdprune.commands.run_lock import RunLock
from mmkdprune.commands.run_log import read_accuracies

TOOLS = Path(__file__).resolve().parent


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train a config and the networks it learns from", allow_abbrev=False)
    parser.add_argument("config", help="config of the last run, a path or package::path")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs"), help="folder of the runs' folders")
    parser.add_argument("--gpus", type=int, default=1, help="processes of each run (more than 1: dist_train.sh)")
    parser.add_argument("--overwrite", action="store_true", help="train all runs anew; what is there is lost")
    parser.add_argument("--amp", action="store_true", help="train in automatic mixed precision (GPU only)")
    parser.add_argument("--speed", action="store_true", help="turn on the switches of mmkdprune::_base_/speed.py")
    parser.add_argument("--auto-scale-lr", action="store_true", help="scale the learning rate with the batch size")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        default=[],
        help="override settings, key=value: those of model.* in CONFIG alone, all others in every run. "
        "model.teacher.checkpoint=FILE takes a teacher that is there already",
    )
    add_file_check_argument(parser)
    parser.add_argument("--debug", action="store_true", help="show the full traceback of every error")
    return parser.parse_args()


def command_of(phase: Phase, args: argparse.Namespace) -> list[str]:
    """Return the command that trains or resumes a run."""
    if args.gpus > 1:
        command = ["bash", str(TOOLS / "dist_train.sh"), phase.name, str(args.gpus)]
    else:
        command = [sys.executable, str(TOOLS / "train.py"), phase.name]
    command += ["--work-dir", str(phase.work_dir)]
    flags = {"--amp": args.amp, "--speed": args.speed, "--auto-scale-lr": args.auto_scale_lr, "--debug": args.debug}
    command += [flag for flag, is_set in flags.items() if is_set]
    if args.overwrite:
        command.append("--overwrite")
    elif phase.is_started():
        command.append("--resume")
    return command + (["--cfg-options", *phase.options] if phase.options else [])


def main() -> None:
    """Run the phases; see the module's docstring."""
    args = parse_args()
    os.environ.setdefault("PYTHON", sys.executable)  # for tools/dist_train.sh
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


if __name__ == "__main__":
    main()
