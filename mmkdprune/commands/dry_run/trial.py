"""``mmkdprune train --dry-run``: build everything, train on a batch, validate on one, and say what a run would be.

The runner works in a temporary folder and is thrown away: no file of a run is written or changed.
"""

import contextlib
import copy
import inspect
import logging
import math
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook, EarlyStoppingHook
from mmengine.runner import Runner, ValLoop
from torch import nn

from mmkdprune.engine.hooks import NonFiniteLossHook, TrainOnlyAccuracyHook
from mmkdprune.engine.wrappers import unwrapped
from mmkdprune.errors import UsageError

from .report import Trial, describe_shape, report_lines

# A first step allocates and compiles; those after it are timed, until so many or so many seconds.
TIMED_STEPS, TIMED_SECONDS = 5, 3.0


class DryRunError(UsageError):
    """A step of the dry run failed; the text names it, the error, and how far the tensors had come."""


class _Enough(Exception):
    """No error: it leaves MMEngine's training early, past the hooks that write."""


def dry_run(config: Config, build_runner: Callable[[Config], Runner], debug: bool = False) -> list[str]:
    """Try what ``config`` describes.

    Args:
        config (Config): Of a run, as ``mmkdprune train`` would start it.
        build_runner (Callable): Builds the runner of a config.
        debug (bool): Let the errors of a step through as they are.

    Returns:
        list[str]: The lines of the report.

    Raises:
        DryRunError: A step failed, or the run would fail later: its folder is not writable, its best checkpoint is
            to be chosen by a metric that there is not.
    """
    check_folder(Path(config.work_dir))
    with tempfile.TemporaryDirectory(prefix="mmkdprune_dry_run_") as folder:
        trial_config = copy.deepcopy(config)
        trial_config.work_dir = folder
        if trial_config.get("log_level") != "DEBUG":
            trial_config.log_level = "WARNING"
        # Backends write, and some of them to a server.
        if trial_config.get("visualizer"):
            trial_config.visualizer.vis_backends = None
        runner = build_runner(trial_config)
        for handler in runner.logger.handlers:
            handler.addFilter(_is_about_the_run)
        trial = run_trial(runner, debug)
        return report_lines(runner, trial, config)


# MMEngine's hooks complain of MMEngine's own use of its old file client; the checkpoint is for its size only.
_NOT_ABOUT_THE_RUN = ("FileClient", "HardDiskBackend", "at an unforeseen moment")


def _is_about_the_run(record: logging.LogRecord) -> bool:
    return not any(words in record.getMessage() for words in _NOT_ABOUT_THE_RUN)


def check_folder(work_dir: Path) -> None:
    """Raise ``DryRunError`` if a work dir could not be made or written."""
    existing = next(path for path in (work_dir, *work_dir.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        problem = "is not writable" if existing.is_dir() else "is a file"
        raise DryRunError(f"the work dir {work_dir} cannot be made: {existing} {problem}; give another --work-dir")


def run_trial(runner: Runner, debug: bool = False) -> Trial:
    """Train and validate on a batch.

    Args:
        runner (Runner): Built, with its loops; it is of no further use.
        debug (bool): Let the errors of a step through as they are.

    Returns:
        Trial: What was found.
    """
    trial = Trial()
    # The report names such losses, and goes on to what else it can find.
    runner._hooks = [hook for hook in runner.hooks if not isinstance(hook, NonFiniteLossHook)]

    def run() -> None:
        trial.resumed = runner.iter
        with _explained("the first training steps", trial, debug):
            _train_some_steps(runner, trial)
        with _explained("the validation of one batch", trial, debug):
            _validate_one_batch(runner, trial)
        _check_monitored(runner, trial)
        with _explained("saving a checkpoint", trial, debug):
            runner.save_checkpoint(runner.work_dir, "dry_run.pth")
        file = Path(runner.work_dir) / "dry_run.pth"
        trial.checkpoint = file.stat().st_size if file.exists() else 0  # rank 0 saves
        trial.memory = _peak_memory()
        raise _Enough

    runner.train_loop.run = run
    with contextlib.suppress(_Enough), _explained("preparing the training", trial, debug):
        runner.train()
    return trial


def _train_some_steps(runner: Runner, trial: Trial) -> None:
    loop: Any = runner.train_loop
    runner.call_hook("before_train")
    runner.call_hook("before_train_epoch")
    runner.model.train()
    batches = getattr(loop, "dataloader_iterator", None) or iter(loop.dataloader)
    takes_index = len(inspect.signature(loop.run_iter).parameters) > 1
    at_least = max(2 if runner.world_size == 1 else 3, _accumulated_batches(runner))
    results: list[dict] = []
    remove = _keep_losses(unwrapped(runner.model), results)
    times: list[float] = []
    with _recorded_shapes(runner, trial.shapes["training"]):
        while len(times) < at_least or _is_worth_another(runner, times):
            start = time.perf_counter()
            batch = next(batches, None)
            if batch is None:  # an epoch of a few batches
                break
            loop.run_iter(*((len(times), batch) if takes_index else (batch,)))
            _synchronise()
            times.append(time.perf_counter() - start)
    remove()
    if not times:
        raise DryRunError(f"the training data give no batch ({len(loop.dataloader.dataset)} samples; drop_last?)")
    trial.losses = {name: float(value) for name, value in results[0].items()} if results else {}
    trial.first_step = times[0]
    later = sorted(times[1:]) or times
    trial.step = later[len(later) // 2]
    bad = [name for name, value in trial.losses.items() if not math.isfinite(value)]
    if bad:
        trial.notes.append(f"the first step's {', '.join(bad)} is not a finite number")


def _is_worth_another(runner: Runner, times: list[float]) -> bool:
    """Whether to time another step; all processes must agree, since each step is one of them all."""
    return runner.world_size == 1 and len(times) <= TIMED_STEPS and sum(times) < TIMED_SECONDS


def _keep_losses(model: nn.Module, results: list[dict]) -> Callable[[], None]:
    """Remember the terms of the first step; return what ends that."""
    original = getattr(model, "parse_losses", None)
    if original is None:
        return lambda: None

    def parse_losses(losses: dict) -> Any:
        total, log_vars = original(losses)
        if not results:
            results.append({name: value.detach() for name, value in log_vars.items()})
        return total, log_vars

    model.parse_losses = parse_losses  # type: ignore[assignment]
    return lambda: delattr(model, "parse_losses")


def _accumulated_batches(runner: Runner) -> int:
    """Batches until every optimizer has taken a step."""
    wrapper: Any = runner.optim_wrapper
    wrappers = wrapper.values() if hasattr(wrapper, "optim_wrappers") else [wrapper]
    return max(int(getattr(one, "_accumulative_counts", 1)) for one in wrappers)


def _validate_one_batch(runner: Runner, trial: Trial) -> None:
    loop = runner.val_loop
    if loop is None:
        return
    if not isinstance(loop, ValLoop):
        trial.notes.append(f"validation was not tried: {type(loop).__name__} is no ValLoop")
        return
    runner.call_hook("before_val")
    runner.call_hook("before_val_epoch")
    runner.model.eval()
    with _recorded_shapes(runner, trial.shapes["validation"]):
        start = time.perf_counter()
        batch = next(iter(loop.dataloader))
        loop.run_iter(0, batch)
        _synchronise()
        trial.val_step = time.perf_counter() - start
    try:
        trial.metrics = loop.evaluator.evaluate(len(loop.dataloader.dataset))
    except Exception as error:  # some metrics need more than a batch
        trial.notes.append(f"the metrics of one batch could not be computed ({type(error).__name__}: {error})")
    for hook in runner.hooks:
        if isinstance(hook, TrainOnlyAccuracyHook):
            hook.after_val_epoch(runner, trial.metrics)
    runner.model.train()


def _check_monitored(runner: Runner, trial: Trial) -> None:
    """Refuse to choose by a metric that validation does not give; MMEngine finds out after the first epochs."""
    for hook in runner.hooks:
        wanted: list[str] = []
        if isinstance(hook, CheckpointHook) and hook.save_best:
            wanted, place = [name for name in hook.key_indicators if name != "auto"], "CheckpointHook.save_best"
        elif isinstance(hook, EarlyStoppingHook):
            wanted, place = [hook.monitor], "EarlyStoppingHook.monitor"
        absent = [name for name in wanted if name not in trial.metrics]
        if absent and trial.metrics:
            raise DryRunError(
                f"{place} names {', '.join(map(repr, absent))}, and validation gives {', '.join(trial.metrics)}: "
                "choose one of those"
            )


@contextlib.contextmanager
def _recorded_shapes(runner: Runner, shapes: dict[str, str]) -> Iterator[None]:
    """Note what each part of the model returns when it is first called."""
    handles = []
    for name, part in unwrapped(runner.model).named_children():

        def note(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
            shapes.setdefault(name, describe_shape(output))

        handles.append(part.register_forward_hook(note))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _explained(step: str, trial: Trial, debug: bool) -> Iterator[None]:
    try:
        yield
    except (_Enough, DryRunError):
        raise
    except Exception as error:
        if debug or isinstance(error, UsageError):
            raise
        shapes = trial.shapes["validation"] or trial.shapes["training"]
        reached = "; ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise DryRunError(
            f"{step} failed: {type(error).__name__}: {error}"
            + (f"\nshapes before that: {reached}" if reached else "")
            + "\n(add --debug for the full traceback)"
        ) from error


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _peak_memory() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
