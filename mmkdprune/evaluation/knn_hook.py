"""k-nearest-neighbour accuracy while a network trains without labels."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmengine.dist import all_gather, all_reduce, broadcast, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmkdprune.arguments import checked
from mmkdprune.config.dataloaders import complete_batched_loader
from mmkdprune.engine.resume import is_resumed
from mmkdprune.engine.wrappers import unwrapped
from mmkdprune.metadata.class_names import class_names, difference
from mmkdprune.randomness import isolated_random_state
from mmkdprune.registry import HOOKS

from .features import FeatureSet, extract_features, make_preprocessor
from .knn import knn_scores, topk_hits


@HOOKS.register_module()
class KNNEvaluationHook(Hook):
    """Log how many images of a labelled set a k-nearest-neighbour classifier on the frozen backbone gets right.

    For self-supervised training, whose loss says little of the representation. Logs ``accuracy/knn_top1`` (and
    ``accuracy/knn_top5``, ...). Weights, modes and random state of the run stay as they are, so that a run with the
    hook trains bit for bit as without. Several processes share the work; the backbone is that of process 0, which is
    the one that is saved. In a config::

        custom_hooks = [dict(
            type='mmkdprune.KNNEvaluationHook',
            train_dataloader=dict(batch_size=128, num_workers=0, dataset=dict(
                type='mmkdprune.Digits', split='train', pipeline=[dict(type='PackInputs')])),
            val_dataloader=dict(batch_size=128, num_workers=0, dataset=dict(
                type='mmkdprune.Digits', split='test', pipeline=[dict(type='PackInputs')])))]

    Args:
        train_dataloader (dict): Loader of the labelled images that vote. Every image once; the sampler is set here.
        val_dataloader (dict): Loader of the images to classify.
        num_neighbours (int): How many vote, k. Defaults to 20.
        temperature (float, optional): Of the votes, see :func:`knn_scores`; None counts all alike. Defaults to 0.07.
        topk (Sequence[int]): An image is right if its class is among so many best ones. Defaults to (1,).
        interval (int): Epochs, or iterations, between evaluations; the end of training is always evaluated. Defaults
            to 1.
        by_epoch (bool): Whether ``interval`` counts epochs. Defaults to True.
        at_start (bool): Whether to evaluate before the first step, too: what the initial weights reach. Defaults to
            False.
        data_preprocessor (dict, optional): Normalisation of the images. Defaults to None, the model's own.

    Raises:
        ValueError: If a number is not positive, the model has no backbone, the images have no labels, or the classes of
            the two sets differ.
    """

    priority = "LOW"

    @checked
    def __init__(
        self,
        train_dataloader: dict,
        val_dataloader: dict,
        num_neighbours: int = 20,
        temperature: float | None = 0.07,
        topk: Sequence[int] = (1,),
        interval: int = 1,
        by_epoch: bool = True,
        at_start: bool = False,
        data_preprocessor: dict | None = None,
    ) -> None:
        numbers = {"num_neighbours": num_neighbours, "interval": interval, **{f"topk {k}": k for k in topk}}
        for name, value in numbers.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"KNNEvaluationHook: {name} must be a positive integer, got {value!r}.")
        if temperature is not None and not temperature > 0:
            raise ValueError(f"KNNEvaluationHook: temperature must be positive or None, got {temperature!r}.")
        if not len(topk):
            raise ValueError("KNNEvaluationHook: topk must name at least one number, got ().")
        for name, loader in (("train_dataloader", train_dataloader), ("val_dataloader", val_dataloader)):
            if "dataset" not in loader:
                raise ValueError(f"KNNEvaluationHook: {name} must be the config of a dataloader, got {loader!r}.")
        self.loaders: dict[str, Any] = {"train_dataloader": train_dataloader, "val_dataloader": val_dataloader}
        self.num_neighbours, self.temperature, self.topk = num_neighbours, temperature, tuple(topk)
        self.interval, self.by_epoch, self.at_start = interval, by_epoch, at_start
        self.data_preprocessor = data_preprocessor

    def before_train(self, runner: Runner) -> None:
        """Build the loaders, so that missing data or labels show before the first epoch."""
        from mmkdprune.datasets.labels import read_labels

        model: Any = unwrapped(runner.model)
        if getattr(model, "backbone", None) is None:
            raise ValueError(f"KNNEvaluationHook evaluates model.backbone, but {type(model).__name__} has none.")
        with isolated_random_state("k-NN evaluation: data"):
            for name, loader in self.loaders.items():
                if not isinstance(loader, DataLoader):
                    self.loaders[name] = _build_loader(runner, dict(loader), name)
        names = [class_names(loader.dataset, f"KNNEvaluationHook.{name}") for name, loader in self.loaders.items()]
        if names[0] is not None and names[1] is not None:
            found = difference(names[0], names[1], "train_dataloader", "val_dataloader")
            if found is not None:
                raise ValueError(
                    f"KNNEvaluationHook: both loaders need the same classes in the same order, but {found}."
                )
        for loader in self.loaders.values():
            if hasattr(loader.dataset, "get_gt_labels"):
                read_labels(loader.dataset, "KNNEvaluationHook")
        if self.at_start and not is_resumed(runner):
            self._log(runner, 0)

    def after_train_epoch(self, runner: Runner) -> None:
        """Evaluate at the end of an epoch."""
        is_last = runner.epoch + 1 == runner.max_epochs
        if self.by_epoch and (self.every_n_epochs(runner, self.interval) or is_last):
            self._log(runner, runner.epoch + 1)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Evaluate after so many iterations."""
        is_last = runner.iter + 1 == runner.max_iters
        if not self.by_epoch and (self.every_n_train_iters(runner, self.interval) or is_last):
            self._log(runner, runner.iter + 1)

    def evaluate(self, runner: Runner) -> dict[str, float]:
        """Compute the accuracies.

        Args:
            runner (Runner): Whose model to evaluate.

        Returns:
            dict[str, float]: ``accuracy/knn_top1``, ..., in percent.
        """
        model: Any = unwrapped(runner.model)
        preprocessor = make_preprocessor(self.data_preprocessor or model.data_preprocessor)
        with isolated_random_state("k-NN evaluation"), _buffers_of_process_zero(model.backbone):
            sets = [
                _gathered(extract_features(model.backbone, loader, preprocessor), len(loader.dataset))
                for loader in self.loaders.values()
            ]
        bank, queries = sets
        device = next(model.backbone.parameters()).device
        own = slice(get_rank(), None, get_world_size())
        target = queries.labels[own].to(device)
        num_classes = 1 + int(torch.cat([bank.labels, queries.labels]).max())
        with torch.inference_mode():
            scores = knn_scores(
                bank.features.to(device),
                bank.labels.to(device),
                queries.features[own].to(device),
                num_classes,
                self.num_neighbours,
                self.temperature,
            )
        hits = topk_hits(scores.clone(), target, self.topk).float()  # no tensor of inference mode is reduced in place
        all_reduce(hits)
        shares = (100 * hits / len(queries.labels)).tolist()
        return {f"accuracy/knn_top{number}": share for number, share in zip(self.topk, shares, strict=True)}

    def _log(self, runner: Runner, step: int) -> None:
        metrics = self.evaluate(runner)
        place = f"{'epoch' if self.by_epoch else 'iteration'} {step}"
        values = ", ".join(f"{name}: {value:.2f}" for name, value in metrics.items())
        runner.logger.info(f"k-NN (k = {self.num_neighbours}) after {place}: {values}")
        for name, value in metrics.items():
            runner.message_hub.update_scalar(f"evaluation/{name}", value)  # those of "val" are the loop's
        if runner.rank == 0:
            runner.visualizer.add_scalars(metrics, step=step)


def _build_loader(runner: Runner, loader: dict[str, Any], name: str) -> DataLoader:
    loader["sampler"] = {"type": "DefaultSampler", "shuffle": False}
    loader.setdefault("num_workers", 0)
    loader.setdefault("batch_size", 128)
    if not complete_batched_loader(loader, f"KNNEvaluationHook.{name}"):
        loader.setdefault("collate_fn", {"type": "default_collate"})
    return runner.build_dataloader(loader)


def _gathered(own: FeatureSet, number: int) -> FeatureSet:
    """The features of all processes, in the order of the data set, without the images that fill the shares up."""
    if get_world_size() == 1:
        return own

    def join(values: Tensor) -> Tensor:
        return torch.stack(all_gather(values), dim=1).flatten(0, 1)[:number]

    return FeatureSet(join(own.features), join(own.labels), own.classes)


@contextlib.contextmanager
def _buffers_of_process_zero(module: nn.Module) -> Iterator[None]:
    """Context in which all processes have the running statistics of process 0; afterwards each has its own again."""
    if get_world_size() == 1:
        yield
        return
    buffers = [buffer for buffer in module.buffers() if buffer is not None]
    own = [buffer.clone() for buffer in buffers]
    try:
        for buffer in buffers:
            broadcast(buffer, 0)
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, own, strict=True):
                buffer.copy_(value)
