"""Log how well the train-only parts of a model do at validation, and whether its teacher knows anything."""

from typing import Any

import torch
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from mmkdprune.engine.wrappers import unwrapped
from mmkdprune.registry import HOOKS

TEACHER = "teacher/top1"


@HOOKS.register_module()
class TrainOnlyAccuracyHook(Hook):
    """Add the accuracy of branches, peers and teacher to the validation metrics.

    Every runner has one; it acts on models of this package that offer ``train_only_accuracy``. ``accuracy/top1`` stays
    the deployable network's; what is added has names of its own, such as ``branch1/joint_top1`` or ``peer1/top1``, and
    can be named in ``CheckpointHook(save_best=...)``. A teacher does not change, so it is evaluated at the first
    validation only and that value is repeated; when it is no better than chance, the log says so.

    Of several processes each counts its own share of the images, the few included that a sampler repeats to make the
    shares equal.
    """

    # Before RuntimeInfoHook, which takes the metrics into the log.
    priority = "HIGHEST"

    def __init__(self) -> None:
        self.teacher_accuracy: float | None = None
        self._hits: dict[str, Tensor] = {}
        self._images: dict[str, int] = {}

    def before_val_epoch(self, runner: Runner) -> None:
        """Start counting."""
        self._hits, self._images = {}, {}

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Score the batch that was just predicted."""
        model: Any = unwrapped(runner.model)
        if not hasattr(model, "train_only_accuracy"):
            return
        if outputs and "feature" in outputs[0]:  # of FeatureValLoop, whose classes are not the heads'
            return
        batch = model.data_preprocessor(data_batch, False)
        inputs, samples = batch["inputs"], batch.get("data_samples") or []
        if not samples or any("gt_label" not in sample for sample in samples):
            return
        target = torch.cat([sample.gt_label for sample in samples])
        if target.numel() != len(samples):
            return
        with torch.no_grad():
            scores = model.train_only_accuracy(inputs, target)
            teacher = model.teacher
            if teacher is not None and teacher.is_loaded and self.teacher_accuracy is None:
                logits = teacher.run(teacher.network.deployable_logits, inputs)
                scores[TEACHER] = (logits.argmax(1) == target).float()
        for name, values in scores.items():
            self._hits[name] = self._hits.get(name, 0) + values.sum()
            self._images[name] = self._images.get(name, 0) + len(samples)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Turn the counts of all processes into metrics."""
        if metrics is None or not hasattr(unwrapped(runner.model), "train_only_accuracy"):
            return
        own = {name: (hits.item(), self._images[name]) for name, hits in self._hits.items()}
        parts = all_gather_object(own)  # a process may have scored nothing
        for name in dict.fromkeys(name for part in parts for name in part):
            counts = [part[name] for part in parts if name in part]
            hits, images = (sum(column) for column in zip(*counts, strict=True))
            metrics[name] = 100 * hits / images
            if name == TEACHER:
                self.teacher_accuracy = metrics[name]
                _report_teacher(runner, metrics[name], images)
        if self.teacher_accuracy is not None:
            metrics[TEACHER] = self.teacher_accuracy


def _report_teacher(runner: Runner, accuracy: float, images: int) -> None:
    model: Any = unwrapped(runner.model)
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
