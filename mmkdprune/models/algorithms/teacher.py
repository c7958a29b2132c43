"""A trained network that others learn from: where it comes from, how it is kept out of the training, how it runs."""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmkdprune.checkpoint.keys import PretrainedKeysError, load_backbone
from mmkdprune.config.reading import package_config
from mmkdprune.metadata.seen_images import SeenImages
from mmkdprune.metadata.task_heads import task_heads
from mmkdprune.randomness import isolated_random_state

from ..utils import is_compiling
from .teacher_data import ACCEPTANCES, TeacherData, TeacherError

# Of a teacher's own, which sees no raw images; the scope for configs whose default scope is another.
PREPROCESSOR = {"type": "mmpretrain.ClsDataPreprocessor"}
# Fields of a config's ``teacher`` that do not describe its network.
OPTIONS = ("checkpoint", "precision", *ACCEPTANCES)
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class FrozenTeacher:
    """A network that is imitated and never changed.

    It is no ``nn.Module`` on purpose: as a plain attribute of the student it stays out of the optimizer, of the
    gradients that DDP synchronises, of the copies that EMA makes and of the student's checkpoint. The student moves it
    along (:meth:`apply`) and loads it when its own weights are initialised (:meth:`load`).

    Args:
        network (nn.Module): The network. It is put into evaluation mode and its parameters lose their gradients.
        checkpoint (str): File or URL of its weights.
        precision (str, optional): ``'fp32'``, ``'bf16'`` or ``'fp16'`` for its forward pass; None follows the
            student's. Defaults to None.
        source (str): What it was made from, for messages.
        data (TeacherData, optional): On which classes and images it was trained; compared with the student's.
    """

    def __init__(
        self,
        network: nn.Module,
        checkpoint: str,
        precision: str | None = None,
        source: str = "",
        data: TeacherData | None = None,
    ) -> None:
        if precision is not None and precision not in PRECISIONS:
            raise ValueError(f"teacher.precision must be one of {list(PRECISIONS)} or None, got {precision!r}.")
        self.network: Any = network
        self.network.requires_grad_(False)
        self.network.eval()
        self.checkpoint = checkpoint
        self.precision = precision
        self.source = source
        self.data = data
        self.is_loaded = False

    def __deepcopy__(self, memo: dict) -> "FrozenTeacher":
        return self

    def apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> None:
        """Move or cast the network's tensors, as ``nn.Module._apply`` does."""
        self.network._apply(function, recurse)

    def load(self) -> None:
        """Load the weights, once.

        Raises:
            FileNotFoundError: If there is no such file.
            TeacherError: If the file is of another network, or leaves a part at random weights.
            TeacherDataError: If it was trained on images of another normalisation.
        """
        if self.is_loaded:
            return
        try:
            load_whole(self.network, self.checkpoint, "teacher.checkpoint")
        except FileNotFoundError as error:
            advice = f"train it first: mmkdprune train {self.source}" if self.source else "correct the path"
            raise FileNotFoundError(
                f"teacher.checkpoint: there is no file {self.checkpoint}. Set it to the teacher's checkpoint, or "
                f"{advice} (mmkdprune pipeline trains teacher and student in one command)"
            ) from error
        if self.data is not None:
            self.data.read_checkpoint(self.checkpoint)
            self.data.check_normalisation()
        self.is_loaded = True

    def check_data(self, classes: Sequence[str] | None, images: SeenImages) -> None:
        """Compare what the teacher was trained on with a training set; called by ``CheckTeacherHook``.

        Args:
            classes (Sequence[str], optional): Class names of the training set, in the order of the labels.
            images (SeenImages): Its images as the student sees them.

        Raises:
            TeacherDataError: If classes or images differ and are not accepted.
        """
        if self.data is not None:
            self.data.check_data(classes, images)

    def run(self, function: Callable, *inputs: Any) -> Any:
        """Call ``function`` without gradients, in the teacher's precision.

        Args:
            function (Callable): A method of ``self.network``.
            *inputs (Any): Its arguments.

        Returns:
            Any: What it returns; tensors are not part of any graph, and no activation is kept for one. They are
            ordinary tensors, which any loss may keep for its backward pass.

        Raises:
            TeacherError: If the weights were not loaded.
        """
        if not self.is_loaded:
            raise TeacherError(
                "the teacher's weights are not loaded: call init_weights() of the model before training."
            )
        if is_compiling():  # a graph has no inference tensors, and keeps nothing that needs no gradient
            with torch.no_grad(), self._autocast(inputs):
                return function(*inputs)
        with torch.inference_mode(), self._autocast(inputs):
            outputs = function(*inputs)
        return _as_ordinary(outputs)

    def _autocast(self, inputs: tuple) -> contextlib.AbstractContextManager:
        if self.precision is None:
            return contextlib.nullcontext()
        dtype, device = PRECISIONS[self.precision], inputs[0].device.type
        return torch.autocast(device, dtype=dtype, enabled=dtype is not None)


def _as_ordinary(outputs: Any) -> Any:
    """Copy inference tensors, which autograd refuses to keep; they are logits, and small."""
    if isinstance(outputs, Tensor):
        return outputs.clone()
    return type(outputs)(_as_ordinary(item) for item in outputs) if isinstance(outputs, list | tuple) else outputs


class LearnsFromTeacher:
    """A model with a ``teacher``, which is moved along with it, and loaded before its training."""

    teacher: FrozenTeacher | None = None

    def prepare_training(self, resume: bool) -> None:
        """Find out before the data are read whether what the model learns from is there; called by ``mmkdprune train``.

        Args:
            resume (bool): Whether a checkpoint is going to be resumed.
        """
        if self.teacher is not None:
            self.teacher.load()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LearnsFromTeacher":
        super()._apply(fn, recurse)  # type: ignore[misc]
        if self.teacher is not None:
            self.teacher.apply(fn, recurse)
        return self


def load_whole(network: nn.Module, checkpoint: str, field: str) -> None:
    """Load weights that fill every part of a network, and are of no larger one.

    Args:
        network (nn.Module): The network.
        checkpoint (str): File or URL. Parts that the network does not have are left alone.
        field (str): The config's field, for messages.

    Raises:
        TeacherError: If nothing matches, a part would keep its random weights, or a part of the file is that of another
            network.
    """
    try:
        report = load_backbone(network, checkpoint, prefix=None)
    except PretrainedKeysError as error:
        raise TeacherError(
            f"{field}: {checkpoint} is not a {_kind(network)} of this package or of {_package(network)}, whose keys "
            f"begin with backbone. and {_head(network)}. (weights of torchvision and others must be converted "
            f"first). {error}"
        ) from error
    absent = [key for key in (*report.missing, *report.mismatched) if not key.endswith("num_batches_tracked")]
    if absent:
        parts = sorted({key.split(".")[0] for key in absent})
        raise TeacherError(
            f"{field}: {checkpoint} does not fill the network: {report.line()}. {', '.join(parts)} would stay random. "
            f"Give the checkpoint of a whole {_kind(network)} of this architecture"
            + (
                ", trained with type='mmkdprune.HSAKD', phase='teacher' (a plain classifier has no branches)."
                if "branches" in parts
                else " (an exported backbone has no head)."
            )
        )
    own = {name for name, _ in network.named_children()}
    surplus = [key for key in report.unexpected if key.split(".")[0] in own]
    if surplus:
        raise TeacherError(
            f"{field}: {checkpoint} is of another network: it also holds {', '.join(surplus[:3])}"
            f"{' ...' if len(surplus) > 3 else ''} ({len(surplus)} keys that this one does not have). Set the depth "
            "and width with which it was trained."
        )


def _head(network: nn.Module) -> str:
    heads = [name for name, _ in network.named_children() if name.endswith("head")]
    return heads[0] if heads and not _is_classifier(network) else "head"


def _kind(network: nn.Module) -> str:
    return "classifier" if _is_classifier(network) else type(network).__name__


def _package(network: nn.Module) -> str:
    return "MMPretrain" if _is_classifier(network) else "OpenMMLab"


def _is_classifier(network: nn.Module) -> bool:
    return isinstance(network, nn.ModuleDict) or hasattr(type(network), "num_classes")


def read_teacher(settings: Any, owner: str, own: Mapping | None = None) -> tuple[dict, Config | None]:
    """Read a config's ``teacher`` field.

    Args:
        settings (Any): ``dict(config=..., checkpoint=...)`` with a config file of the teacher (a path or
            ``package::path``), or ``dict(backbone=..., neck=..., head=..., checkpoint=...)``; also ``precision`` and
            what is accepted, see :class:`TeacherData`.
        owner (str): The algorithm, for messages.
        own (Mapping, optional): Model config of the student, which is the teacher's where it names no other, for
            students that take no ``backbone``. Defaults to None.

    Returns:
        tuple[dict, Config | None]: The teacher's model config, and the whole config where there is a file.

    Raises:
        ValueError: If the field is none of both, or names no checkpoint.
        FileNotFoundError: If there is no such config.
    """
    forms = "dict(config='...', checkpoint='...') or dict(backbone=..., neck=..., head=..., checkpoint='...')"
    if own is not None:
        forms = "dict(config='...', checkpoint='...') or, with the student's own config, dict(checkpoint='...')"
        is_good = isinstance(settings, Mapping) and set(settings) <= {"config", *OPTIONS}
    else:
        is_good = isinstance(settings, Mapping) and ("config" in settings) != ("backbone" in settings)
    if not is_good:
        raise ValueError(f"{owner}: teacher must be {forms}, got {settings!r}.")
    if not isinstance(settings.get("checkpoint"), str) or not settings["checkpoint"]:
        raise ValueError(
            f"{owner}: teacher.checkpoint must be the file of a trained teacher, got {settings.get('checkpoint')!r}: a "
            "random one has nothing to teach."
        )
    if "config" not in settings and own is not None:
        return dict(own), None
    if "config" not in settings:
        return {key: value for key, value in settings.items() if key not in OPTIONS}, None
    unknown = sorted(set(settings) - {"config", *OPTIONS})
    if unknown:
        raise ValueError(f"{owner}: teacher has a config and also sets {unknown}: change them in that config.")
    return read_network_config(settings["config"], f"{owner}: teacher.config")


def read_network_config(name: str, field: str) -> tuple[dict, Config | None]:
    """Read the config of a network from a path or from an installed package.

    Args:
        name (str): ``path``, relative to the working directory, or ``package::path``.
        field (str): The field that names it, for messages.

    Returns:
        tuple[dict, Config | None]: Its ``model``, and the whole config.

    Raises:
        FileNotFoundError: If there is no such file.
        AbsentPackageError: If the package is not installed.
    """
    if "::" not in name and not os.path.isfile(name):
        raise FileNotFoundError(
            f"{field}: there is no config {name} in {os.getcwd()}: paths are relative to the folder in which the "
            "command is run; give an absolute one, or package::path for a config of an installed package"
        )
    config = package_config(name) if "::" in name else Config.fromfile(name)
    return config.model.to_dict(), config


def build_teacher(
    settings: Mapping[str, Any],
    student: BaseModel,
    build: Callable[[dict], nn.Module],
    owner: str | None = None,
    own: Mapping | None = None,
) -> FrozenTeacher:
    """Make the teacher of a student and compare the two.

    Args:
        settings (Mapping[str, Any]): The config's ``teacher`` field, see :func:`read_teacher`.
        student (BaseModel): A model with ``num_classes``, or with heads that have it.
        build (Callable): Makes the network from the teacher's model config.
        owner (str, optional): The algorithm, for messages. Defaults to the student's class.
        own (Mapping, optional): See :func:`read_teacher`.

    Returns:
        FrozenTeacher: The teacher, not loaded yet.

    Raises:
        ValueError: If the field is malformed or the numbers of classes differ.
    """
    owner = owner or type(student).__name__
    model, config = read_teacher(settings, owner, own)
    scope = None if config is None else config.get("default_scope")
    # Building draws random weights, which the checkpoint replaces.
    with isolated_random_state(f"{owner}.teacher"), DefaultScope.overwrite_default_scope(scope):
        network = build(model)
    teacher_classes, classes = _number_of_classes(network), _number_of_classes(student)
    if teacher_classes != classes:
        raise ValueError(
            f"{owner}: the teacher ({describe_network(network)}) has {teacher_classes} classes and the student "
            f"({describe_network(student)}) {classes}: both heads need the same num_classes."
        )

    data = TeacherData(owner, None if config is None else config.to_dict(), student, settings)
    return FrozenTeacher(network, settings["checkpoint"], settings.get("precision"), settings.get("config", ""), data)


def _number_of_classes(network: Any) -> Any:
    """Of a classifier, or of the heads of a detector or segmentor: one number, where all have the same."""
    if hasattr(type(network), "num_classes"):
        return network.num_classes
    numbers = sorted(set(task_heads(network).values()))
    return numbers[0] if len(numbers) == 1 else numbers


def describe_network(classifier: Any) -> str:
    """Name a classifier by its backbone, for messages."""
    backbone = classifier.backbone
    depth = getattr(backbone, "depth", None)
    return type(backbone).__name__ + (f"-{depth}" if depth is not None else "")
