"""Compare the sizes of the training batches with what the model needs, before training starts."""

from typing import Any

from mmengine.dataset import DefaultSampler
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import BatchSampler

from mmkdprune.registry import HOOKS
from mmkdprune.utils.wrappers import unwrapped


@HOOKS.register_module()
class CheckBatchSizeHook(Hook):
    """Refuse batches with fewer images than the model's ``min_batch_size``, the leftover one of an epoch included.

    A method that mixes images within a batch has nothing to do with a single one. A leftover of one would otherwise
    end the run in the last iteration of the first epoch, with nothing saved. Models without the attribute, loaders
    with a batch sampler of their own and samplers without a length are not checked.
    """

    def before_train(self, runner: Runner) -> None:
        """Compare once, when data and model exist."""
        model: Any = unwrapped(runner.model)
        minimum = getattr(model, "min_batch_size", None)
        loader = runner.train_dataloader
        if minimum is None or loader.batch_size is None or type(loader.batch_sampler) is not BatchSampler:
            return
        if loader.batch_size < minimum:
            raise ValueError(
                f"train_dataloader.batch_size is {loader.batch_size}, but {type(model).__name__} needs at least "
                f"{minimum} images in a batch: set train_dataloader.batch_size={minimum} or more"
            )
        try:
            images = len(loader.sampler)
        except TypeError:
            return
        leftover = images % loader.batch_size
        if not 0 < leftover < minimum or loader.drop_last or not self._meets_leftover(runner):
            return
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
    def _meets_leftover(runner: Runner) -> bool:
        """Tell whether the loop comes to the end of the data; an infinite sampler has a length, too, but no end."""
        loop, loader = runner.train_loop, runner.train_dataloader
        finite = isinstance(loop, EpochBasedTrainLoop) or isinstance(loader.sampler, DefaultSampler)
        return finite and loop.max_iters >= len(loader)
