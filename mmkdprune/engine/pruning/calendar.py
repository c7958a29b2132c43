"""When the prune steps of a run are due."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from mmengine.dist import get_world_size
from mmengine.runner import IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader


class Calendar(NamedTuple):
    """When prune steps are due, in the loop's unit (epochs or iterations).

    Attributes:
        by_epoch: The unit.
        end: Number of units after which pruning is over; fine-tuning follows.
        interval: Units from step to step.
        warmup: Units without a step.
    """

    by_epoch: bool
    end: int
    interval: int
    warmup: int

    @property
    def total(self) -> int:
        """Length of the schedules: epochs, or prune steps in an iteration-based run."""
        return self.end if self.by_epoch else math.ceil(self.end / self.interval)

    def due(self, done: int) -> int | None:
        """Index ``t`` of the prune step that is due when ``done`` units are done, or None."""
        if done > self.end or done <= self.warmup or (done % self.interval and done != self.end):
            return None
        return done - 1 if self.by_epoch else math.ceil(done / self.interval) - 1


def make_calendar(runner: Runner, interval: int | None, warmup: int, finetune: int) -> Calendar:
    """Lay out the prune steps of a run.

    Raises:
        ValueError: If warm-up and fine-tuning leave no time to prune.
    """
    loop = runner.train_loop
    by_epoch = not isinstance(loop, IterBasedTrainLoop)
    units, unit = (loop.max_epochs, "epochs") if by_epoch else (loop.max_iters, "iterations")
    if warmup + finetune >= units:
        raise ValueError(
            f"FilterPruningHook: warmup={warmup} and finetune={finetune} leave none of the run's {units} {unit} to "
            "prune: make them smaller"
        )
    if interval is None:
        interval = 1 if by_epoch else iterations_of_an_epoch(runner.train_dataloader)
    return Calendar(by_epoch, units - finetune, interval, warmup)


def iterations_of_an_epoch(loader: DataLoader) -> int:
    """Iterations in which all processes together see as many images as the training set has."""
    dataset: Any = loader.dataset
    size = images_of_a_batch(loader)
    try:
        images = len(dataset)
    except TypeError:
        images = None
    if size is None or images is None:
        lacking = "the training set has no length" if images is None else "the batch sampler has no batch_size"
        raise ValueError(
            f"FilterPruningHook: {lacking}, so set interval, the iterations from one prune step to the next"
        )
    return max(1, math.ceil(images / (size * get_world_size())))


def images_of_a_batch(loader: DataLoader) -> int | None:
    """Images in a batch of one process, which MMEngine leaves to the batch sampler where there is one."""
    return loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)
