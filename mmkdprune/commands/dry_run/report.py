"""What ``mmkdprune train --dry-run`` prints."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.runner import Runner
from torch import Tensor

from mmkdprune.engine.wrappers import unwrapped

from ..descriptions import (
    data_line,
    duration,
    optimizer_line,
    parameter_lines,
    processes_text,
    pruning_lines,
    size_text,
    titled_lines,
)


def report_lines(runner: Runner, trial: "Trial", config: Config) -> list[str]:
    """Write the report.

    Args:
        runner (Runner): The runner that was tried.
        trial (Trial): What was found.
        config (Config): The run's own config, with its own work dir.

    Returns:
        list[str]: Lines for a terminal.
    """
    model = unwrapped(runner.model)
    rows = [
        ("training", data_line(runner.train_dataloader, runner.world_size)),
        *([("validation", data_line(runner.val_dataloader, runner.world_size))] if runner.val_loop else []),
        ("model", f"{type(model).__name__} on {next(model.parameters()).device}, {processes_text(runner.world_size)}"),
        *(("parameters", line) for line in parameter_lines(model)),
        *((f"shapes in {phase}", line) for phase, shapes in trial.shapes.items() for line in _shape_lines(shapes)),
        ("optimizer", optimizer_line(runner.optim_wrapper)),
        *(("pruning", line) for line in pruning_lines(runner)),
        ("losses", ", ".join(f"{name} {value:.4g}" for name, value in trial.losses.items()) or "-"),
        *([("metrics", _metrics(trial.metrics))] if trial.metrics else []),
        ("memory", f"{size_text(trial.memory)} at most ({_memory_of()})"),
        ("time", time_line(runner, trial)),
        ("hooks", ", ".join(type(hook).__name__ for hook in runner.hooks)),
        *(("saves", line) for line in saving_lines(runner, trial, config)),
        *(("note", line) for line in trial.notes),
    ]
    return titled_lines(rows)


def describe_shape(value: Any) -> str:
    """Return the shapes of the tensors in nested containers: ``(64, 3, 16, 16)``, ``[(2, 64, 4, 4) x4]``."""
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    if isinstance(value, Mapping):
        inner = [f"{key} {describe_shape(entry)}" for key, entry in value.items() if _has_tensors(entry)]
        return ", ".join(inner) or "-"
    if isinstance(value, list | tuple):
        shapes = [describe_shape(entry) for entry in value if _has_tensors(entry)]
        if len(shapes) == 1:
            return shapes[0]
        same = len(set(shapes)) == 1 and len(shapes) > 2
        return f"[{shapes[0]} x{len(shapes)}]" if same else f"[{', '.join(shapes)}]"
    return "-"


def _has_tensors(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_tensors, value.values()))
    return isinstance(value, Tensor) or (isinstance(value, list | tuple) and any(map(_has_tensors, value)))


def time_line(runner: Runner, trial: "Trial") -> str:
    """Say what an iteration takes, and extrapolate to the schedule.

    Args:
        runner (Runner): The runner that was tried.
        trial (Trial): What was found.

    Returns:
        str: A line of the report.
    """
    loop: Any = runner.train_loop
    left = max(0, loop.max_iters - trial.resumed)
    seconds = left * trial.step
    text = f"{trial.step:.3g} s an iteration ({trial.first_step:.3g} s the first)"
    if trial.val_step is not None:
        rounds = _validations(loop, trial.resumed)
        seconds += rounds * len(runner.val_dataloader) * trial.val_step
        text += f", {trial.val_step:.3g} s a validation batch"
    length = f"{loop.max_epochs} epochs, " if loop.max_iters != loop.max_epochs and loop.max_epochs > 1 else ""
    resumed = f" of {loop.max_iters:,}" if trial.resumed else ""
    return f"{text}; {length}{left:,}{resumed} iterations: about {duration(seconds)}"


def _validations(loop: Any, resumed: int) -> int:
    """How often a run validates from here on."""
    by_epoch = hasattr(loop, "run_epoch")
    done = resumed * loop.max_epochs // max(1, loop.max_iters) if by_epoch else resumed
    end = loop.max_epochs if by_epoch else loop.max_iters
    begin = max(done + 1, loop.val_begin)
    rounds = max(0, end // loop.val_interval - (begin - 1) // loop.val_interval)
    return rounds + (1 if end % loop.val_interval and begin <= end else 0)


def saving_lines(runner: Runner, trial: "Trial", config: Config) -> list[str]:
    """Say what a run will write, and where.

    Args:
        runner (Runner): The runner that was tried.
        trial (Trial): What was found.
        config (Config): The run's own config.

    Returns:
        list[str]: Lines of the report.
    """
    work_dir = Path(config.work_dir)
    lines: list[str] = []
    kept = 0
    for hook in runner.hooks:
        if not isinstance(hook, CheckpointHook):
            continue
        # MMEngine names the folder after the runner's, which here is a temporary one.
        temporary, out_dir = Path(runner.work_dir), Path(hook.out_dir or work_dir)
        folder = work_dir if out_dir == temporary else out_dir.parent / work_dir.name
        unit = "epoch" if hook.by_epoch else "iter"
        every = f"every {hook.interval} {unit}s" if hook.interval != 1 else f"every {unit}"
        keep = "all kept" if hook.max_keep_ckpts < 0 else f"the last {hook.max_keep_ckpts} kept"
        if hook.interval > 0:
            lines.append(f"{folder}/{unit}_N.pth {every}, {keep}, about {size_text(trial.checkpoint)} each")
            end = runner.max_epochs if hook.by_epoch else runner.max_iters
            count = end // hook.interval
            kept += count if hook.max_keep_ckpts < 0 else min(count, hook.max_keep_ckpts)
        if hook.save_best:
            lines.append(f"{folder}/best_*.pth by {', '.join(hook.key_indicators)}")
            kept += 1
    averaged = any(isinstance(hook, EMAHook) for hook in runner.hooks)
    if averaged:
        lines[-1:] = [*lines[-1:], "the checkpoints hold averaged weights (EMAHook) as state_dict"]
    if any(getattr(hook, "pruner", None) is not None and getattr(hook, "report", False) for hook in runner.hooks):
        lines.append(f"{work_dir}/pruning_report.json and .png at the end")
    visualizer = config.get("visualizer") or {}
    tensorboard = any("Tensorboard" in str(backend.get("type")) for backend in visualizer.get("vis_backends") or ())
    events = ", vis_data/events.* for TensorBoard" if tensorboard else ""
    lines.append(f"{work_dir}/<time>/: log, vis_data/scalars.json{events}; the config beside it")
    free = shutil.disk_usage(_existing(work_dir)).free
    needed = kept * trial.checkpoint
    if needed > free:
        lines.append(
            f"WARNING: {kept} checkpoints need {size_text(needed)} and the disk has {size_text(free)}: keep fewer"
        )
    return lines


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _shape_lines(shapes: Mapping[str, str]) -> list[str]:
    text = "; ".join(f"{name} {shape}" for name, shape in shapes.items() if shape != "-" and "()" not in shape)
    return [text] if text else []


def _metrics(metrics: Mapping[str, Any]) -> str:
    shown = [f"{name} {value:.4g}" for name, value in metrics.items() if isinstance(value, int | float)]
    return f"{', '.join(shown)} (one batch, hardly trained)"


def _memory_of() -> str:
    if torch.cuda.is_available():
        return f"of {size_text(torch.cuda.get_device_properties(0).total_memory)} on the GPU"
    return "the whole process"


@dataclass
class Trial:
    """What a dry run has found; times in seconds, sizes in bytes.

    Attributes:
        shapes: Shapes of what each part of the model returned first, by the part's name: in training, and in
            validation.
        losses: Terms of the first step.
        first_step: Time of the first training step, with its data.
        step: Median time of those after it.
        val_step: Time of a validation batch; None without validation.
        metrics: What the validation batch gave.
        notes: What could not be tried.
        checkpoint: Size of a checkpoint.
        memory: Most memory that was in use.
        resumed: Iterations that a resumed checkpoint had done.
    """

    shapes: dict[str, dict[str, str]] = field(default_factory=lambda: {"training": {}, "validation": {}})
    losses: dict[str, float] = field(default_factory=dict)
    first_step: float = 0.0
    step: float = 0.0
    val_step: float | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    checkpoint: int = 0
    memory: int = 0
    resumed: int = 0
