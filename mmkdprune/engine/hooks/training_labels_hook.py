"""Tell a model that compares images by class what it must know of the training set."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner

from mmkdprune.engine.wrappers import unwrapped
from mmkdprune.registry import HOOKS


@HOOKS.register_module()
class TrainingLabelsHook(Hook):
    """Hand the labels of the training set to a model with memory banks, and look at how batches are drawn.

    Every runner has one; it acts on models that ask for it (``needs_training_labels``, ``needs_class_pairs``). Memory
    banks get the size of the training set before weights are initialised and a checkpoint is loaded. A model that
    compares images of a batch by class is warned of batches in which a class comes twice by chance only.
    """

    # Before EMAHook copies the model.
    priority = "VERY_HIGH"

    def before_run(self, runner: Runner) -> None:
        """Act once, when data loader and model exist, on a run that trains."""
        model: Any = unwrapped(runner.model)
        if not isinstance(runner._train_loop, BaseLoop):
            return
        if not (getattr(model, "needs_training_labels", False) or getattr(model, "needs_class_pairs", False)):
            return
        # Needs MMPretrain, which a run of MMDetection or MMSegmentation does without.
        from mmkdprune.datasets import ClassPairBatchSampler, read_labels

        loader = runner.train_dataloader
        if model.needs_training_labels:
            model.set_training_labels(read_labels(loader.dataset, type(model).__name__))
        if model.needs_class_pairs and not isinstance(loader.batch_sampler, ClassPairBatchSampler):
            runner.logger.warning(
                f"{type(model).__name__} compares the images of a batch with others of their class, and "
                f"{type(loader.batch_sampler).__name__} puts them together by chance only: set train_dataloader."
                "batch_sampler=dict(type='mmkdprune.ClassPairBatchSampler')."
            )
