"""Compare the classes and images that a teacher was trained on with those of its student."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.runner.checkpoint import CheckpointLoader

from mmkdprune.metadata.class_names import difference
from mmkdprune.metadata.seen_images import SeenImages, differences, images_of_run
from mmkdprune.metadata.trained_on import TrainedOn, trained_by, trained_on

# Fields of a config's ``teacher`` that accept a difference.
ACCEPTANCES = ("allow_other_classes", "allow_other_images")


class TeacherError(ValueError):
    """A teacher that cannot teach: no such file, the wrong network, or not loaded yet."""


class TeacherDataError(TeacherError):
    """A teacher was trained on other classes, another normalisation or another order of colours."""


class TeacherData:
    """What is known of a teacher's training; its checkpoint counts more than its config.

    Args:
        owner (str): The algorithm, for messages.
        config (Mapping[str, Any], optional): The teacher's whole config, where there is one.
        student (BaseModel): Whose ``data_preprocessor`` normalises the images for both.
        settings (Mapping[str, Any]): The config's ``teacher``; ``allow_other_classes=True`` and
            ``allow_other_images=True`` accept a difference, which is then logged.
        field (str): Name of that field, for messages. Defaults to ``'teacher'``.

    Raises:
        ValueError: If one of these two is no boolean.
    """

    def __init__(
        self,
        owner: str,
        config: Mapping[str, Any] | None,
        student: BaseModel,
        settings: Mapping[str, Any],
        field: str = "teacher",
    ) -> None:
        self.owner, self.field = owner, field
        self.known = TrainedOn() if config is None else trained_by(config)
        self.sources = {"classes": "config", "images": "config"}
        # Of the preprocessor as it is now; a reference to the student would be a cycle.
        self.own_images = images_of_run(student, None)
        self.accepted = {name: settings.get(name, False) for name in ACCEPTANCES}
        for name, value in self.accepted.items():
            if not isinstance(value, bool):
                raise ValueError(f"{owner}: {field}.{name} must be True or False, got {value!r}.")

    def read_checkpoint(self, file: str) -> None:
        """Read what the teacher's checkpoint tells of its classes and images.

        Args:
            file (str): File or URL.
        """
        told = trained_on(CheckpointLoader.load_checkpoint(file, "cpu"))
        for name in self.sources:
            value = getattr(told, name)
            if value is not None:
                self.known, self.sources[name] = replace(self.known, **{name: value}), "checkpoint"

    def check_normalisation(self) -> None:
        """Compare mean and standard deviation, which are known without the data.

        Raises:
            TeacherDataError: If they differ and that is not accepted.
        """
        self._check_images(self.own_images, ("mean", "std"))

    def check_data(self, classes: Sequence[str] | None, images: SeenImages) -> None:
        """Compare with a training set.

        Args:
            classes (Sequence[str], optional): Its class names, in the order of the labels.
            images (SeenImages): Its images as the student sees them.

        Raises:
            TeacherDataError: If classes or images differ and are not accepted.
        """
        if classes is not None and self.known.classes is not None:
            source = f"the {self.field}'s {self.sources['classes']}"
            found = difference(self.known.classes, classes, source, "the training set")
            if found is not None:
                self._refuse(
                    "allow_other_classes",
                    f"the {self.field} network was trained on other classes: {found}. It would teach one class under "
                    f"the label of another: give the training set the {self.field}'s classes in its order "
                    f"(train_dataloader.dataset.metainfo=dict(classes=(...))), or set another {self.field}",
                )
        self._check_images(images, ("mean", "std", "colours"))

    def _check_images(self, images: SeenImages, names: Sequence[str]) -> None:
        theirs = self.known.images
        if theirs is None:
            return
        found = [name for name in differences(images, theirs) if name in names]
        if not found:
            return
        fix = "set the same data_preprocessor in both configs"
        flag = images.flag_for(theirs.colours)
        if found == ["colours"] and flag is not None:
            fix = f"set data_preprocessor.to_rgb={flag} (bgr_to_rgb in MMDetection and MMSegmentation) here"
        self._refuse(
            "allow_other_images",
            f"the {self.field} network was trained on images with other {' and '.join(found)}: {theirs.describe()} "
            f"(its {self.sources['images']}); the student gets {images.describe()}: {fix}",
        )

    def _refuse(self, name: str, text: str) -> None:
        if not self.accepted[name]:
            raise TeacherDataError(f"{self.owner}: {text}; model.{self.field}.{name}=True accepts it.")
        print_log(f"{self.owner}: accepted ({self.field}.{name}=True): {text}.", logger="current", level=30)
