"""Evaluate a network again and again on the same few images, which are loaded once."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.evaluator import Evaluator
from mmengine.model import BaseModel
from mmengine.runner import set_random_seed
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from mmkdprune.engine.pruning.calendar import images_of_a_batch
from mmkdprune.engine.pruning.recalibration import average_statistics
from mmkdprune.engine.pruning.run import metrics_of
from mmkdprune.errors import UsageError
from mmkdprune.pruning.modes import set_evaluation
from mmkdprune.randomness import get_global_state, set_global_state

# Of the images of one set, in bytes: they stay in memory.
MEMORY_LIMIT = 4e9


class HeldImages:
    """Some images of a data set, as the batches of its loader.

    Which ones, and how they are augmented, depends on the seed and the data set only.

    Args:
        loader (DataLoader): Gives data set, collate function and size of the batches.
        images (int): How many; all, where there are no more.
        seed (int): Of the choice.
        option (str): What the number is called on the command line, for messages.

    Attributes:
        batches (list): As they come from the loader.
        images (int): Number of images.

    Raises:
        UsageError: If the set is empty or has no length, or the images take more than ``MEMORY_LIMIT``.
    """

    def __init__(self, loader: DataLoader, images: int, seed: int, option: str) -> None:
        dataset: Any = loader.dataset
        try:
            number = len(dataset)
        except TypeError:
            number = 0
        if not number:
            raise UsageError(f"{type(dataset).__name__} is empty, or has no length: no images can be chosen from it")
        chosen = torch.randperm(number, generator=torch.Generator().manual_seed(seed))[:images].sort().values.tolist()
        self.images = len(chosen)
        size = min(images_of_a_batch(loader) or 1, self.images)
        # In this process: what workers draw for augmentation would depend on their number.
        source = DataLoader(dataset, size, sampler=chosen, collate_fn=loader.collate_fn)
        self.batches: list[Any] = []
        self.bytes = 0
        with _seeded(seed):
            for batch in source:
                self.batches.append(batch)
                self.bytes += _bytes_of(batch)
                if self.bytes > MEMORY_LIMIT:
                    raise UsageError(
                        f"the first {len(self.batches) * size} images take {self.bytes / 1e9:.1f} GB, and all are kept "
                        f"in memory: choose fewer than {self.images} with {option}"
                    )


class PartialEvaluation:
    """Metrics of a network, as it is at the moment, on a part of the validation set.

    Args:
        model (BaseModel): The network.
        validation (HeldImages): On which it is evaluated.
        evaluator (Evaluator): Of the whole validation set, with its meta information.
        training (HeldImages, optional): On which BatchNorm statistics are computed anew. Defaults to None: never.
    """

    def __init__(
        self, model: BaseModel, validation: HeldImages, evaluator: Evaluator, training: HeldImages | None = None
    ) -> None:
        self.model, self.validation, self.evaluator, self.training = model, validation, evaluator, training
        model.train()
        # Frozen ones are in evaluation mode now.
        self._norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
        set_evaluation(model)
        _restrict(evaluator, validation)

    def metrics(self, recalibrate: bool) -> dict[str, float]:
        """Metrics that are single numbers.

        Args:
            recalibrate (bool): Give BatchNorms that are not frozen new statistics first. They stay.
        """
        set_evaluation(self.model)
        # Some evaluators print.
        with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
            if recalibrate and self.training is not None:
                for norm in self._norms:
                    norm.training = True
                average_statistics(self.model, self.training.batches)
                set_evaluation(self.model)
            return metrics_of(self.model, self.validation.batches, self.evaluator, self.validation.images)

    def first_image(self) -> Tensor:
        """The first image as the network reads it, (1, C, H, W)."""
        data = self.model.data_preprocessor(self.validation.batches[0], False)
        return data["inputs"][:1]


def _restrict(evaluator: Evaluator, held: HeldImages) -> None:
    """Let metrics that read the annotations of a whole set from a file (COCO, LVIS) look at the chosen images only."""
    metrics = [metric for metric in evaluator.metrics if getattr(metric, "img_ids", 0) is None]
    if metrics:
        samples = [sample for batch in held.batches for sample in batch["data_samples"]]
        for metric in metrics:
            metric.img_ids = [sample.img_id for sample in samples]


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    state = get_global_state()
    try:
        set_random_seed(seed)
        yield
    finally:
        set_global_state(state)


def _bytes_of(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        value = list(value.values())
    return sum(map(_bytes_of, value)) if isinstance(value, list | tuple) else 0
