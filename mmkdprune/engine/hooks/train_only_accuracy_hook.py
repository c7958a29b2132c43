"""Log how well the train-only parts of a model do at validation, and whether its teacher knows anything."""

from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor

from mmkdprune.registry import HOOKS

TEACHER = "teacher/top1"


@HOOKS.register_module()
class TrainOnlyAccuracyHook(Hook):
    """Add the accuracy of branches, peers and teacher to the validation metrics.

    Every runner has one; it acts on models of this package that offer ``train_only_accuracy``. ``accuracy/top1`` stays
    the deployable network's; what is added has names of its own, such as ``branch1/joint_top1`` or ``peer1/top1``, and
    can be named in ``CheckpointHook(save_best=...)``. A teacher is evaluated at the first validation only; when it does
    no better than chance, the log says so.
    """

    # Before RuntimeInfoHook, which takes the metrics into the log.
    priority = "HIGHEST"

    def __init__(self) -> None:
        self.teacher_is_known = False
        self._sums: dict[str, Tensor] = {}
        self._images = 0

    def before_val_epoch(self, runner: Runner) -> None:
        """Start counting."""
        self._sums, self._images = {}, 0

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Score the batch that was just predicted."""
        model = _unwrap(runner)
        if not hasattr(model, "train_only_accuracy"):
            return
        teacher = None if self.teacher_is_known else model.teacher
        batch = model.data_preprocessor(data_batch, False)
        inputs, samples = batch["inputs"], batch["data_samples"]
        if any("gt_label" not in sample for sample in samples):
            return
        target = torch.cat([sample.gt_label for sample in samples])
        if target.numel() != len(samples):
            return
        with torch.no_grad():
            scores = model.train_only_accuracy(inputs, target)
            if teacher is not None and teacher.is_loaded:
                logits = teacher.run(teacher.network.deployable_logits, inputs)
                scores[TEACHER] = (logits.argmax(1) == target).float()
        for name, values in scores.items():
            self._sums[name] = self._sums.get(name, 0) + values.sum()
        self._images += len(samples)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Turn the counts of all processes into metrics."""
        if not self._sums or metrics is None:
            return
        counts = torch.stack([*self._sums.values(), torch.full_like(next(iter(self._sums.values())), self._images)])
        all_reduce(counts)
        *hits, images = counts.tolist()
        metrics.update({name: 100 * hit / images for name, hit in zip(self._sums, hits, strict=True)})
        if TEACHER in self._sums:
            self.teacher_is_known = True
            _report_teacher(runner, metrics[TEACHER], int(images))


def _report_teacher(runner: Runner, accuracy: float, images: int) -> None:
    model = _unwrap(runner)
    chance = 1 / model.num_classes
    spread = (chance * (1 - chance) / images) ** 0.5
    text = f"The teacher ({model.teacher.checkpoint}) is right on {accuracy:.2f} % of {images} validation images"
    if accuracy > 100 * (chance + 4 * spread):
        runner.logger.info(f"{text}.")
        return
    runner.logger.error(
        f"{text}, which is CHANCE LEVEL for {model.num_classes} classes: the student learns nothing from it. Check "
        "that teacher.checkpoint is of a trained network, that its classes have the same order and its images the same "
        "normalisation."
    )


def _unwrap(runner: Runner) -> Any:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
