"""Train a model from a config: ``mmkdprune train``."""

import argparse
import importlib.util
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmkdprune.commands.command_line import (
    fail,
    rank,
    readable_errors,
    repeat_command,
    set_launcher,
    set_work_dir,
)
from mmkdprune.commands.console import short_start
from mmkdprune.commands.dry_run.trial import dry_run
from mmkdprune.commands.interruption import InterruptionGuard
from mmkdprune.commands.missing_data import check_initial_weights, explained_missing_data
from mmkdprune.commands.missing_images import check_images
from mmkdprune.commands.processes import end_with_launcher
from mmkdprune.commands.run_lock import lock_run
from mmkdprune.commands.summary import SummaryHook, macs_line
from mmkdprune.commands.work_dir import RemoveOldCheckpointsHook, SettingsHashHook, find_checkpoints, find_resumable
from mmkdprune.compat.distributed import explain_timeout, leave_finished_process
from mmkdprune.config.checks import check_numbers
from mmkdprune.config.comparison import settings_hash
from mmkdprune.config.dataloaders import set_dataloader_defaults
from mmkdprune.config.hooks import hook_name
from mmkdprune.config.reading import read_config
from mmkdprune.engine.hooks import ProgressBarHook
from mmkdprune.engine.pruning.field import apply_prune, check_single, use_prune
from mmkdprune.engine.speed import apply_speed, choose_speed
from mmkdprune.engine.wrappers import unwrapped
from mmkdprune.errors import UsageError
from mmkdprune.models.algorithms.teacher import LearnsFromTeacher


def load_config(args: argparse.Namespace) -> tuple[Config, list[str], str]:
    """Read the config and merge the command line into it; also return what to log of its speed, and its hash."""
    config = read_config(args.config, args.cfg_options)
    set_work_dir(config, args.config, args.work_dir)
    if args.no_validate:
        config.val_cfg = config.val_dataloader = config.val_evaluator = None
    if args.amp:
        config.optim_wrapper.type = "AmpOptimWrapper"
        config.optim_wrapper.setdefault("loss_scale", "dynamic")
    if config.get("optim_wrapper", {}).get("type") == "AmpOptimWrapper" and get_device() in ("cpu", "mps"):
        wish = "--amp" if args.amp else "optim_wrapper.type='AmpOptimWrapper'"
        raise UsageError(f"{wish} needs a GPU and none is visible: train without it (type='OptimWrapper')")
    if args.auto_scale_lr:
        if "base_batch_size" not in (config.get("auto_scale_lr") or {}):
            raise UsageError(
                "--auto-scale-lr needs the batch size that the config's learning rate was chosen for: "
                "add auto_scale_lr=dict(base_batch_size=…) to the config"
            )
        config.auto_scale_lr.enable = True
    if args.tensorboard:
        add_tensorboard(config)
    choose_speed(config, args.speed)
    if args.prune is not None:
        shares = {"macs": args.target_macs, "params": args.target_params, "latency": args.target_latency}
        target = {name: share for name, share in shares.items() if share is not None}
        use_prune(config, args.prune, args.rate, args.coupling, target or None, args.ranking)
    asked_for = settings_hash(config)
    speed = apply_speed(config)
    check_single(config)
    apply_prune(config)
    fields = ("train_dataloader", "val_dataloader", "test_dataloader")
    check_numbers(config)
    pin_memory = torch.cuda.is_available() and not args.no_pin_memory
    set_dataloader_defaults(config, fields, pin_memory, not args.no_persistent_workers)
    config.custom_hooks = list(config.get("custom_hooks") or [])
    name = "CheckBatchSizeHook"  # what else is checked, every runner checks
    if name not in map(hook_name, config.custom_hooks):
        config.custom_hooks = [*config.custom_hooks, {"type": f"mmkdprune.{name}"}]
    return config, speed, asked_for


def choose_start(config: Config, resume: str | None, overwrite: bool) -> None:
    """Set ``config.resume`` and ``config.load_from``; refuse to train over checkpoints unless told to."""
    found = find_checkpoints(config.work_dir)
    if resume is None and config.get("resume") and config.get("load_from") is None:
        resume = "auto"
    if resume == "auto":
        latest = find_resumable(config.work_dir, tell=_tell_of_resume if rank() == 0 else None)
        config.resume = latest is not None
        if latest is not None:
            config.load_from = str(latest)
        elif found:
            names = ", ".join(path.name for path in found)
            raise UsageError(f"--resume: {config.work_dir} has no whole checkpoint to resume from, only {names}")
        elif rank() == 0:
            print(f"--resume: no checkpoint in {config.work_dir}, training starts from the beginning", flush=True)
    elif resume is not None:
        if "://" not in resume and not Path(resume).is_file():
            raise UsageError(f"--resume: there is no checkpoint {resume}")
        config.resume, config.load_from = True, resume
    if found and not (resume or config.get("resume") or overwrite):
        raise UsageError(
            f"the work dir {config.work_dir} already holds checkpoints ({len(found)}, newest {found[-1].name}).\n"
            "To continue that run add --resume, to train it anew and lose them add --overwrite, "
            "to keep both give another --work-dir."
        )


def _tell_of_resume(text: str) -> None:
    print(f"--resume: {text}", flush=True)


def build_runner(config: Config) -> Runner:
    """Build the runner and, earlier than it would itself, its teacher and loops: a wrong path shows here."""
    check_initial_weights(config)
    runner = Runner.from_cfg(config) if "runner_type" not in config else RUNNERS.build(config)
    model = unwrapped(runner.model)
    if isinstance(model, LearnsFromTeacher):
        model.prepare_training(resume=bool(config.get("resume")))
    for name in ("train", "val"):
        with explained_missing_data(config, f"{name}_dataloader"):
            loop = getattr(runner, f"{name}_loop")
        if rank() == 0 and loop is not None:
            check_images(loop.dataloader.dataset, f"{name}_dataloader")
    return runner


def add_tensorboard(config: Config) -> None:
    """Let the run's visualizer write for TensorBoard, too."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UsageError('--tensorboard needs the package tensorboard: pip install "mmkdprune[tensorboard]"')
    visualizer = config.get("visualizer") or {"type": "Visualizer"}
    backends = list(visualizer.get("vis_backends") or [{"type": "LocalVisBackend"}])
    if not any(backend.get("type") == "TensorboardVisBackend" for backend in backends):
        backends.append({"type": "TensorboardVisBackend"})
    config.visualizer = {**visualizer, "vis_backends": backends}


def report_dry_run(config: Config, speed: list[str], debug: bool) -> None:
    """Try the run, and print what it would be."""
    lines = [*speed, *dry_run(config, build_runner, debug)]
    if rank() == 0:
        print("\n".join(lines))
        print("\ndry run: all of this works; nothing was written", flush=True)
    leave_finished_process()


def explain_interruption(config: Config | None, started: float, overwrite: bool) -> str:
    """One line: what is saved and how to go on."""
    if config is None:
        return "nothing was started yet"
    latest: Path | str | None = find_resumable(config.work_dir, newer_than=started)
    if latest is None and config.get("resume"):
        latest = config.load_from
    if latest is None:
        again = repeat_command(config.work_dir, *(["--overwrite"] if overwrite else []))
        return f"no checkpoint was saved yet; start again with: {again}"
    return f"last checkpoint: {latest}; resume with: {repeat_command(config.work_dir, '--resume', str(latest))}"


def run(args: argparse.Namespace) -> None:
    """Train; see :mod:`mmkdprune.cli.train`."""
    # File systems keep times in whole seconds at worst.
    started = float(int(time.time()))
    config = None
    end_with_launcher()
    with InterruptionGuard() as guard, readable_errors(args.debug), ExitStack() as resources:
        console = resources.enter_context(short_start(args.verbose))
        try:
            with readable_errors(args.debug, building=True):
                config, speed, asked_for = load_config(args)
                if not args.dry_run:
                    resources.enter_context(lock_run(config.work_dir))
                choose_start(config, args.resume, args.overwrite)
                set_launcher(config, args.launcher, args.local_rank)
                if args.dry_run:
                    report_dry_run(config, speed, args.debug)
                    return
                runner = build_runner(config)
                runner.register_hook(SettingsHashHook(asked_for))
                runner.register_hook(SummaryHook(console, macs_line(runner) if rank() == 0 else "", speed))
            for line in speed:
                runner.logger.info(line)
            guard.protect_checkpoints(runner)
            if not args.no_progress and not any(isinstance(hook, ProgressBarHook) for hook in runner.hooks):
                runner.register_hook(ProgressBarHook())
            if args.overwrite:
                runner.register_hook(RemoveOldCheckpointsHook())
            runner.train()
            resources.close()
            leave_finished_process()
        except BaseException as error:
            if guard.signal is None and not args.debug and (text := explain_timeout(error, config)):
                fail(text)
            if isinstance(error, OSError) and config is not None and rank() == 0 and not args.dry_run:
                # A full disk: the last checkpoint is whole, since files are replaced by whole ones only.
                print(f"\n{explain_interruption(config, started, args.overwrite)}", file=sys.stderr)
            # A signal may also surface as a lost worker or a closed connection to another process.
            if guard.signal is None:
                raise
            if rank() == 0:
                outcome = explain_interruption(config, started, args.overwrite)
                print(f"\nstopped by {guard.signal.name}; {outcome}", file=sys.stderr)
            sys.exit(guard.exit_code)
