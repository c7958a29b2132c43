"""New statistics for the BatchNorms of a pruned network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import all_reduce_params, get_rank, get_world_size
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, RandomSampler

from .calendar import images_of_a_batch
from .run import ema_models, isolated


def check_recalibration(runner: Runner) -> None:
    """Refuse what would validate a network with statistics of another one, or take statistics of single images.

    Raises:
        ValueError: If the averaged weights are validated with the statistics of the plain ones, or the size of the
            training batches is not known.
    """
    if any(not model.update_buffers for model in ema_models(runner)):
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
        with isolated(model), torch.no_grad():
            # A copy was made before the run froze anything in the model itself.
            for name, module in model.named_modules():
                module.training = modes.get(name, module.training)
            generator = torch.Generator().manual_seed(seed * get_world_size() + get_rank())
            sampler = RandomSampler(loader.dataset, replacement=True, num_samples=batches * size, generator=generator)
            average_statistics(model, DataLoader(loader.dataset, size, sampler=sampler, collate_fn=loader.collate_fn))


def average_statistics(model: BaseModel, batches: Iterable[Any]) -> None:
    """Set the running statistics of BatchNorms that are in training mode to averages over some batches.

    Those that see nothing keep theirs.

    Args:
        model: Called without gradients.
        batches: As they come from a training loader.
    """
    with _plain_averages(model):
        for batch in batches:
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
