"""Compare the sizes of the training batches with what the model needs, before training starts."""

from typing import Any

from mmengine.dataset import DefaultSampler
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import BatchSampler

from mmkdprune.engine.wrappers import unwrapped
from mmkdprune.registry import HOOKS


@HOOKS.register_module()
class CheckBatchSizeHook(Hook):
    """Refuse batches with fewer images than the model's ``min_batch_size``, the leftover one of an epoch included.

    A method that mixes images within a batch has nothing to do with a single one. A leftover of one would otherwise
    end the run in the last iteration of the first epoch, with nothing saved. A model with a method
    ``check_batch_size(images)`` is asked about both sizes, those of all processes together. Models with neither,
    loaders with a batch sampler of their own and samplers without a length are not checked.
    """

    def before_train(self, runner: Runner) -> None:
        """Compare once, when data and model exist."""
        model: Any = unwrapped(runner.model)
        loader = runner.train_dataloader
        if loader.batch_size is None or type(loader.batch_sampler) is not BatchSampler:
            return
        leftover = self._leftover(runner)
        if hasattr(model, "check_batch_size"):
            for size in (loader.batch_size, *([leftover] if leftover else [])):
                model.check_batch_size(size * get_world_size())
        minimum = getattr(model, "min_batch_size", None)
        if minimum is None:
            return
        if loader.batch_size < minimum:
            raise ValueError(
                f"train_dataloader.batch_size is {loader.batch_size}, but {type(model).__name__} needs at least "
                f"{minimum} images in a batch: set train_dataloader.batch_size={minimum} or more"
            )
        if not 0 < leftover < minimum:
            return
        images = len(loader.sampler)
        if images < minimum:
            advice = f"the training set needs at least {minimum} images per process"
        else:
            smaller = range(loader.batch_size - 1, minimum - 1, -1)
            other = next((size for size in smaller if images % size == 0 or images % size >= minimum), None)
            advice = "set train_dataloader.drop_last=True or another train_dataloader.batch_size"
            advice += f", {other} for instance" if other is not None else ""
        raise ValueError(
            f"train_dataloader.batch_size={loader.batch_size} with {images} images per process leaves a last batch of "
            f"{leftover}, but {type(model).__name__} needs at least {minimum} images in a batch: {advice}"
        )

    @staticmethod
    def _leftover(runner: Runner) -> int:
        """Images of the last batch of an epoch in this process, if it is smaller than the others and is met; else 0."""
        loop, loader = runner.train_loop, runner.train_dataloader
        try:
            leftover = len(loader.sampler) % loader.batch_size
        except TypeError:
            return 0
        # An infinite sampler has a length, too, but no end.
        finite = isinstance(loop, EpochBasedTrainLoop) or isinstance(loader.sampler, DefaultSampler)
        return leftover if finite and not loader.drop_last and loop.max_iters >= len(loader) else 0
