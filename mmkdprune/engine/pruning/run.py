"""What the pruning hook needs to know of a run: its time, its model, its optimizers; and passes over its data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dist import all_reduce, all_reduce_params, broadcast, get_rank, get_world_size
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, EMAHook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapperDict
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, RandomSampler

from mmkdprune.randomness import get_global_state, set_global_state

from ..wrapping import SHARDED


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


def optimizers_of(runner: Runner) -> list[torch.optim.Optimizer]:
    """All optimizers of the run."""
    wrapper = runner.optim_wrapper
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    return [one.optimizer for one in wrappers]


def averaged_models(runner: Runner) -> list[BaseModel]:
    """The averaged copies of the model that ``EMAHook`` keeps."""
    return [average.module for average in _averages(runner)]


def _averages(runner: Runner) -> list[Any]:
    return [hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook)]


def refuse_sharded(runner: Runner) -> None:
    """Raise ``ValueError`` if no process holds whole filters."""
    kinds = [type(runner.model), type(getattr(runner, "strategy", None))]
    kinds += [type(part) for part in (*runner.model.modules(), *runner.model.parameters())]
    found = next((kind.__name__ for kind in kinds if any(sign in kind.__name__ for sign in SHARDED)), None)
    if found is not None:
        raise ValueError(
            f"FilterPruningHook cannot rank and zero filters whose parameters are sharded over processes ({found}): "
            "train with MMDistributedDataParallel (launcher='pytorch' without a strategy or model_wrapper_cfg)"
        )


def gate_best(runner: Runner, is_pruned: Callable[[], bool]) -> None:
    """Keep best checkpoints and early stopping from metrics of a network that is not pruned yet."""
    for hook in runner.hooks:
        if isinstance(hook, EarlyStoppingHook) or (isinstance(hook, CheckpointHook) and hook.save_best):
            hook.after_val_epoch = _gated(hook.after_val_epoch, is_pruned)


def _gated(act: Callable, is_pruned: Callable[[], bool]) -> Callable:
    def after_val_epoch(runner: Runner, metrics: dict | None = None) -> None:
        if is_pruned():
            act(runner, metrics)

    return after_val_epoch


def agree_on_masks(masks: list[tuple[str, Tensor, Tensor]]) -> None:
    """Raise ``RuntimeError`` in every process if one of them chose other filters than the first."""
    if get_world_size() == 1:
        return
    own = torch.stack([torch.stack([_digest(pruned), _digest(hard)]) for _, pruned, hard in masks])
    first = own.clone()
    broadcast(first, src=0)
    differs = (own != first).any(1).long()
    all_reduce(differs, op="max")
    if bool(differs.any()):
        name = masks[int(differs.argmax())][0]
        raise RuntimeError(
            f"FilterPruningHook: the processes chose different filters in {name}, so their weights are not the same: "
            "check that all gradients are reduced and all parameters start alike"
        )


def _digest(mask: Tensor) -> Tensor:
    """A number that depends on which elements are True."""
    index = torch.arange(1, mask.numel() + 1, device=mask.device)
    return ((index * 2654435761 % 4294967296) * mask.flatten()).sum()


@contextmanager
def _isolated(model: nn.Module) -> Iterator[None]:
    """Put modes and random state back afterwards; validation and training must not notice."""
    state, modes = get_global_state(), [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        set_global_state(state)


def evaluate(runner: Runner, model: BaseModel) -> dict[str, float]:
    """Metrics of a model that are single numbers, on the validation set, without the hooks of a validation loop."""
    loop = runner.val_loop
    with _isolated(model), torch.no_grad():
        for module in model.modules():
            module.training = False
        for batch in loop.dataloader:
            loop.evaluator.process(data_samples=model.val_step(batch), data_batch=batch)
        metrics = loop.evaluator.evaluate(len(loop.dataloader.dataset))
    return {name: float(value) for name, value in metrics.items() if np.ndim(value) == 0 and not isinstance(value, str)}


def check_recalibration(runner: Runner) -> None:
    """Refuse what would validate a network with statistics of another one, or take statistics of single images.

    Raises:
        ValueError: If the averaged weights are validated with the statistics of the plain ones, or the size of the
            training batches is not known.
    """
    if any(not model.update_buffers for model in _averages(runner)):
        raise ValueError(
            "FilterPruningHook: recalibrate_bn gives averaged weights BatchNorm statistics of their own, but "
            "EMAHook(update_buffers=False) validates them with those of the plain weights: set update_buffers=True in "
            "EMAHook, or recalibrate_bn=0"
        )
    if images_of_a_batch(runner.train_dataloader) is None:
        raise ValueError(
            "FilterPruningHook: recalibrate_bn needs to know how many images a training batch has, and the batch "
            "sampler has no batch_size: set recalibrate_bn=0"
        )


def recalibrate(runner: Runner, models: Iterable[BaseModel], batches: int, seed: int) -> None:
    """Set the running statistics of BatchNorms to averages over some training batches.

    BatchNorms that are frozen in evaluation mode, and those that the deployable network does not run through (of
    branches, peers, auxiliary heads), keep theirs. Batches are drawn apart from the training's own.

    Args:
        runner: The run, whose training set and preprocessing are used.
        models: The model, and its averaged copies.
        batches: Number of batches, in each process.
        seed: Seed of the choice of images.
    """
    loader, (live, *copies) = runner.train_dataloader, models
    modes = {name: module.training for name, module in live.named_modules()}
    size = images_of_a_batch(loader) or 1
    for model in (live, *copies):
        with _isolated(model), torch.no_grad():
            # A copy was made before the run froze anything in the model itself.
            for name, module in model.named_modules():
                module.training = modes.get(name, module.training)
            generator = torch.Generator().manual_seed(seed * get_world_size() + get_rank())
            sampler = RandomSampler(loader.dataset, replacement=True, num_samples=batches * size, generator=generator)
            with _plain_averages(model):
                for batch in DataLoader(loader.dataset, size, sampler=sampler, collate_fn=loader.collate_fn):
                    data = model.data_preprocessor(batch, training=False)
                    model(**data, mode="tensor") if isinstance(data, dict) else model(*data, mode="tensor")


@contextmanager
def _plain_averages(model: nn.Module) -> Iterator[None]:
    """Average what BatchNorms see inside; those that see nothing keep their statistics."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    norms = [module for module in norms if module.track_running_stats]
    before = [[buffer.clone() for buffer in module.buffers()] for module in norms]
    momenta = [module.momentum for module in norms]
    for module in norms:
        module.reset_running_stats()
        module.momentum = None  # the plain average
    yield
    seen = []
    for module, momentum, buffers in zip(norms, momenta, before, strict=True):
        module.momentum = momentum
        if not bool(module.num_batches_tracked):
            for buffer, value in zip(module.buffers(), buffers, strict=True):
                buffer.copy_(value)
        else:
            seen.append(module)
    if get_world_size() > 1:
        all_reduce_params(
            [tensor for module in seen for tensor in (module.running_mean, module.running_var)], op="mean"
        )


def image_shape(data_batch: Any) -> tuple[int, ...] | None:
    """(C, H, W) of the images of a batch as it comes from the loader, or None."""
    inputs = data_batch.get("inputs") if isinstance(data_batch, dict) else None
    first = inputs[0] if isinstance(inputs, (list, tuple, Tensor)) and len(inputs) else None
    return tuple(first.shape) if isinstance(first, Tensor) and first.ndim == 3 else None
