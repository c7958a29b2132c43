"""Compare a teacher's classes and images with those of the training set before training starts."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkdprune.engine.wrappers import unwrapped
from mmkdprune.metadata.class_names import class_names
from mmkdprune.metadata.seen_images import images_of_run
from mmkdprune.registry import HOOKS


@HOOKS.register_module()
class CheckTeacherHook(Hook):
    """Refuse a teacher that was trained on other classes, another normalisation or another order of colours.

    Every runner has one. It knows them from the teacher's checkpoint, or else from its config;
    ``model.teacher.allow_other_classes=True`` and ``model.teacher.allow_other_images=True`` accept a difference. The
    pretrained network whose branches HSAKD trains (``model.pretrained``) is compared, too.
    """

    priority = "VERY_HIGH"

    def before_train(self, runner: Runner) -> None:
        """Compare once, when data and model exist."""
        model: Any = unwrapped(runner.model)
        dataset = runner.train_dataloader.dataset
        for name in ("teacher", "pretrained_data"):
            source: Any = getattr(model, name, None)
            if hasattr(source, "check_data"):
                source.check_data(class_names(dataset, "train_dataloader.dataset"), images_of_run(model, dataset))
