"""The summary of a run that a terminal sees before its first iteration."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from mmkdprune.compat.versions import installed_versions
from mmkdprune.engine.pruning.run import first_image_shape
from mmkdprune.engine.wrappers import unwrapped
from mmkdprune.pruning.modes import evaluating
from mmkdprune.version import __version__

from .console import ConsoleFilter
from .descriptions import data_line, optimizer_line, parameter_lines, processes_text, pruning_lines, titled_lines

_SHOWN_VERSIONS = ("torch", "mmengine", "mmcv", "mmpretrain")


class SummaryHook(Hook):
    """Show the summary once everything that prepares training is done, and open the terminal for the log.

    Not registered: ``mmkdprune train`` adds it, a config has no use for it.

    Args:
        console (ConsoleFilter): To open.
        macs (str): What :func:`macs_line` has found.
        speed (Sequence[str]): What :func:`mmkdprune.engine.speed.apply_speed` has to tell.
    """

    priority = "LOWEST"

    def __init__(self, console: ConsoleFilter, macs: str, speed: Sequence[str] = ()) -> None:
        self.console = console
        self.macs = macs
        self.speed = speed

    def before_train(self, runner: Runner) -> None:
        """Show it."""
        self.console.open()
        if runner.rank == 0:
            runner.logger.info("\n".join(["This run:", *summary_lines(runner, self.macs, self.speed)]))


def summary_lines(runner: Runner, macs: str, speed: Sequence[str] = ()) -> list[str]:
    """Write the summary.

    Args:
        runner (Runner): About to train.
        macs (str): What :func:`macs_line` has found.
        speed (Sequence[str]): What :func:`mmkdprune.engine.speed.apply_speed` has to tell.

    Returns:
        list[str]: Lines for a terminal.
    """
    model = unwrapped(runner.model)
    loop: Any = runner.train_loop
    rows = [
        ("model", f"{type(model).__name__} on {next(model.parameters()).device}, {processes_text(runner.world_size)}"),
        *(("parameters", line) for line in parameter_lines(model)),
        ("MACs", macs),
        ("training", data_line(runner.train_dataloader, runner.world_size)),
        *([("validation", data_line(runner.val_dataloader, runner.world_size))] if runner.val_loop else []),
        ("optimizer", optimizer_line(runner.optim_wrapper)),
        ("schedule", _schedule_line(runner, loop)),
        *(("pruning", line) for line in pruning_lines(runner)),
        *(("speed", line) for line in speed_lines(speed)),
        *([("continues", f"after {_done(runner, loop)} from {runner._load_from}")] if runner._resume else []),
        ("seed", f"{runner.seed}{', deterministic' if runner.deterministic else ''}"),
        ("versions", _versions()),
        ("output", runner.work_dir),
        (
            "",
            f"the whole log: {Path(runner.log_dir, runner.timestamp).with_suffix('.log').relative_to(runner.work_dir)}",
        ),
    ]
    return [f"  {line}" for line in titled_lines(rows)]


def speed_lines(speed: Sequence[str]) -> list[str]:
    """Sum up which switches are on, and which were asked for and are off, with the reason.

    Args:
        speed (Sequence[str]): Lines such as ``'speed.amp: off (no CUDA GPU)'``.

    Returns:
        list[str]: A line for each of the two.
    """
    switches = [line.removeprefix("speed.").split(": ", 1) for line in speed if line.startswith("speed.")]
    on = [name for name, state in switches if state.startswith("on")]
    off = [f"{name} {state[4:]}" for name, state in switches if state.startswith("off") and "not asked" not in state]
    lines = (("on: ", on), ("off: ", off))
    return [f"{title}{', '.join(dict.fromkeys(names))}" for title, names in lines if names]


def _schedule_line(runner: Runner, loop: Any) -> str:
    by_epoch = hasattr(loop, "run_epoch")
    length = f"{loop.max_epochs} epoch{'s' * (loop.max_epochs != 1)}, " if by_epoch else ""
    schedulers = runner.param_schedulers or []
    lists = schedulers.values() if isinstance(schedulers, dict) else [schedulers]
    names = list(dict.fromkeys(type(scheduler).__name__ for one in lists for scheduler in one))
    return f"{length}{loop.max_iters:,} iterations; {', '.join(names) or 'constant learning rate'}"


def _done(runner: Runner, loop: Any) -> str:
    return f"{runner.epoch} epochs" if hasattr(loop, "run_epoch") else f"{runner.iter} iterations"


def _versions() -> str:
    versions = installed_versions()
    return ", ".join([f"mmkdprune {__version__}", *(f"{name} {versions[name]}" for name in _SHOWN_VERSIONS)])


def macs_line(runner: Runner) -> str:
    """Count the multiply-accumulate operations of the deployable network on an image as it is validated.

    Nothing is computed: the pass is one of shapes only. The images are the validation set's first one; the random state
    is as before.

    Args:
        runner (Runner): That has not started.

    Returns:
        str: A line of the summary, which says what was counted.
    """
    model = unwrapped(runner.model)
    try:
        shape = first_image_shape(runner)
        if shape is None:
            return "not counted (a sample is no single image)"
        part, macs = _deployable_macs(model, shape)
    except Exception as error:  # a model or data set of any package: its own errors are no reason not to train
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"not counted ({reason[:80]})"
    number = f"{macs / 1e9:.4g} G" if macs >= 1e9 else f"{macs / 1e6:.4g} M"
    return f"{number} in the {part}, for an image of {' x '.join(map(str, shape))}"


def _deployable_macs(model: nn.Module, shape: tuple[int, ...]) -> tuple[str, int]:
    """What was counted, and its operations: the whole network where it runs on images alone, else its backbone."""
    try:
        return "network", shape_macs(model, shape, mode="tensor")
    except Exception:
        backbone = getattr(model, "backbone", None)
        if not isinstance(backbone, nn.Module):
            raise
        return "backbone", shape_macs(backbone, shape)


def shape_macs(network: nn.Module, shape: tuple[int, ...], **options: Any) -> int:
    """Multiply-accumulate operations of one image, by a forward pass of shapes.

    Args:
        network (nn.Module): Called as ``network(images)``, in evaluation mode.
        shape (tuple[int, ...]): (C, H, W).
        **options: Further arguments of the call.
    """
    with evaluating(network), torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        images = torch.empty(1, *shape, device=next(network.parameters()).device)
        with FlopCounterMode(display=False) as counter:
            network(images, **options)
    return counter.get_total_flops() // 2
