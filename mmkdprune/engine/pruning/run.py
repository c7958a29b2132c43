"""What the pruning hook needs to know of a run: its model, its optimizers, its processes; and a validation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce, broadcast, get_world_size
from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, EMAHook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor, nn

from mmkdprune.pruning.modes import set_evaluation, set_modes
from mmkdprune.randomness import get_global_state, isolated_random_state, set_global_state

from ..wrappers import unwrapped
from ..wrapping import SHARDED


def optimizers_of(runner: Runner) -> list[torch.optim.Optimizer]:
    """All optimizers of the run."""
    wrapper = runner.optim_wrapper
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    return [one.optimizer for one in wrappers]


def averaged_models(runner: Runner) -> list[BaseModel]:
    """The averaged copies of the model that ``EMAHook`` keeps."""
    return [average.module for average in ema_models(runner)]


def ema_models(runner: Runner) -> list[Any]:
    """The wrappers that ``EMAHook`` keeps the averaged copies in."""
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
def isolated(model: nn.Module) -> Iterator[None]:
    """Put modes and random state back afterwards; validation and training must not notice."""
    state, modes = get_global_state(), {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        set_modes(model, modes)
        set_global_state(state)


def evaluate(runner: Runner, model: BaseModel) -> dict[str, float]:
    """Metrics of a model that are single numbers, on the validation set, without the hooks of a validation loop."""
    loop = runner.val_loop
    with isolated(model), torch.no_grad():
        set_evaluation(model)
        return metrics_of(model, loop.dataloader, loop.evaluator, len(loop.dataloader.dataset))


def metrics_of(model: BaseModel, batches: Iterable[Any], evaluator: Evaluator, images: int) -> dict[str, float]:
    """Metrics of a model that are single numbers, without gradients and modes looked after.

    Args:
        model: In evaluation mode.
        batches: As they come from a validation loader.
        evaluator: Of the validation set.
        images: Number of images in all batches and processes.
    """
    for batch in batches:
        evaluator.process(data_samples=model.val_step(batch), data_batch=batch)
    metrics = evaluator.evaluate(images)
    return {name: float(value) for name, value in metrics.items() if np.ndim(value) == 0 and not isinstance(value, str)}


def image_shape(data_batch: Any) -> tuple[int, ...] | None:
    """(C, H, W) of the images of a batch as it comes from the loader, or None."""
    inputs = data_batch.get("inputs") if isinstance(data_batch, dict) else None
    first = inputs[0] if isinstance(inputs, (list, tuple, Tensor)) and len(inputs) else None
    return tuple(first.shape) if isinstance(first, Tensor) and first.ndim == 3 else None


def first_image_shape(runner: Runner) -> tuple[int, ...] | None:
    """(C, H, W) of the first image that the run validates on (or trains on); None if a sample is no single image.

    The random state is as before.
    """
    with isolated_random_state("shape of an image"):
        loader: Any = runner.val_dataloader if runner.val_loop is not None else runner.train_dataloader
        dataset = loader.dataset
        # A data set in memory makes whole batches.
        samples = dataset.__getitems__([0]) if hasattr(dataset, "__getitems__") else [dataset[0]]
        return image_shape(loader.collate_fn(samples))


def padded_image_shape(runner: Runner) -> tuple[int, ...] | None:
    """As :func:`first_image_shape`, with what the data preprocessor adds at the borders; None if that fails."""
    try:
        shape = first_image_shape(runner)
    except Exception:  # a data set of any package: its own errors are no reason not to prune
        return None
    if shape is None:
        return None
    divisor = getattr(getattr(unwrapped(runner.model), "data_preprocessor", None), "pad_size_divisor", None) or 1
    return (shape[0], *(-(-size // divisor) * divisor for size in shape[1:]))
