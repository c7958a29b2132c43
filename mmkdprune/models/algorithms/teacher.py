"""A trained network that others learn from: where it comes from, how it is kept out of the training, how it runs."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmkdprune.compat.pretrained import load_backbone
from mmkdprune.utils.random import isolated_random_state

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class TeacherError(ValueError):
    """A teacher that cannot teach: no such file, the wrong network, or not loaded yet."""


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
    """

    def __init__(self, network: nn.Module, checkpoint: str, precision: str | None = None, source: str = "") -> None:
        if precision is not None and precision not in PRECISIONS:
            raise ValueError(f"teacher.precision must be one of {list(PRECISIONS)} or None, got {precision!r}.")
        self.network: Any = network
        self.network.requires_grad_(False)
        self.network.eval()
        self.checkpoint = checkpoint
        self.precision = precision
        self.source = source
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
            TeacherError: If the file leaves a part of the network at random weights.
        """
        if self.is_loaded:
            return
        try:
            load_whole(self.network, self.checkpoint, "teacher.checkpoint")
        except FileNotFoundError as error:
            advice = f"train it first: python tools/train.py {self.source}" if self.source else "correct the path"
            raise FileNotFoundError(
                f"teacher.checkpoint: there is no file {self.checkpoint}. Set it to the teacher's checkpoint, or "
                f"{advice} (tools/train_pipeline.py trains teacher and student in one command)"
            ) from error
        self.is_loaded = True

    def run(self, function: Callable, *inputs: Any) -> Any:
        """Call ``function`` without gradients, in the teacher's precision.

        Args:
            function (Callable): A method of ``self.network``.
            *inputs (Any): Its arguments.

        Returns:
            Any: What it returns; tensors are not part of any graph, and no activation is kept for one.

        Raises:
            TeacherError: If the weights were not loaded.
        """
        if not self.is_loaded:
            raise TeacherError(
                "the teacher's weights are not loaded: call init_weights() of the model before training."
            )
        with torch.inference_mode(), self._autocast(inputs):
            return function(*inputs)

    def _autocast(self, inputs: tuple) -> contextlib.AbstractContextManager:
        if self.precision is None:
            return contextlib.nullcontext()
        dtype, device = PRECISIONS[self.precision], inputs[0].device.type
        return torch.autocast(device, dtype=dtype, enabled=dtype is not None)


def load_whole(network: nn.Module, checkpoint: str, field: str) -> None:
    """Load weights that fill every part of a network.

    Args:
        network (nn.Module): The network.
        checkpoint (str): File or URL. Parts that the network does not have are left alone.
        field (str): The config's field, for messages.

    Raises:
        TeacherError: If a part would keep its random weights.
        mmkdprune.utils.PretrainedKeysError: If nothing matches.
    """
    report = load_backbone(network, checkpoint, prefix=None)
    absent = [key for key in (*report.missing, *report.mismatched) if not key.endswith("num_batches_tracked")]
    if absent:
        parts = sorted({key.split(".")[0] for key in absent})
        raise TeacherError(
            f"{field}: {checkpoint} does not fill the network: {report.line()}. {', '.join(parts)} would stay random. "
            "Give the checkpoint of a whole classifier of this architecture"
            + (
                ", trained with type='mmkdprune.HSAKD', phase='teacher' (a plain classifier has no branches)."
                if "branches" in parts
                else " (an exported backbone has no head)."
            )
        )


def read_teacher(settings: Any, owner: str) -> tuple[dict, dict | None]:
    """Read a config's ``teacher`` field.

    Args:
        settings (Any): ``dict(config=..., checkpoint=...)`` with a config file of the teacher (a path or
            ``package::path``), or ``dict(backbone=..., neck=..., head=..., checkpoint=...)``.
        owner (str): The algorithm, for messages.

    Returns:
        tuple[dict, dict | None]: The teacher's model config, and the data preprocessor's where a config file has one.

    Raises:
        ValueError: If the field is none of both, or names no checkpoint.
    """
    forms = "dict(config='...', checkpoint='...') or dict(backbone=..., neck=..., head=..., checkpoint='...')"
    if not isinstance(settings, Mapping) or ("config" in settings) == ("backbone" in settings):
        raise ValueError(f"{owner}: teacher must be {forms}, got {settings!r}.")
    if not isinstance(settings.get("checkpoint"), str) or not settings["checkpoint"]:
        raise ValueError(
            f"{owner}: teacher.checkpoint must be the file of a trained teacher, got {settings.get('checkpoint')!r}: a "
            "random one has nothing to teach."
        )
    if "config" not in settings:
        return {key: value for key, value in settings.items() if key not in ("checkpoint", "precision")}, None
    unknown = sorted(set(settings) - {"config", "checkpoint", "precision"})
    if unknown:
        raise ValueError(f"{owner}: teacher has a config and also sets {unknown}: change them in that config.")
    name = settings["config"]
    config = get_config(name) if "::" in name else Config.fromfile(name)
    model = config.model.to_dict()
    return model, config.get("data_preprocessor") or model.get("data_preprocessor")


def build_teacher(
    settings: Mapping[str, Any],
    student: BaseModel,
    build: Callable[[dict], nn.Module],
) -> FrozenTeacher:
    """Make the teacher of a student and compare the two.

    Args:
        settings (Mapping[str, Any]): The config's ``teacher`` field, see :func:`read_teacher`.
        student (BaseModel): An algorithm with ``num_classes``.
        build (Callable): Makes the network from the teacher's model config.

    Returns:
        FrozenTeacher: The teacher, not loaded yet.

    Raises:
        ValueError: If the field is malformed, the numbers of classes differ or images are normalised differently.
    """
    owner = type(student).__name__
    model, preprocessor = read_teacher(settings, owner)
    with isolated_random_state(f"{owner}.teacher"):  # building draws random weights, which the checkpoint replaces
        network = build(model)
    teacher_classes, classes = network.head.num_classes, student.num_classes  # type: ignore[union-attr]
    if teacher_classes != classes:
        raise ValueError(
            f"{owner}: the teacher ({describe_network(network)}) has {teacher_classes} classes and the student "
            f"({describe_network(student)}) {classes}: both heads need the same num_classes."
        )
    _check_normalisation(owner, preprocessor, student.data_preprocessor)
    return FrozenTeacher(network, settings["checkpoint"], settings.get("precision"), settings.get("config", ""))


def describe_network(classifier: Any) -> str:
    """Name a classifier by its backbone, for messages."""
    backbone = classifier.backbone
    depth = getattr(backbone, "depth", None)
    return type(backbone).__name__ + (f"-{depth}" if depth is not None else "")


def _check_normalisation(owner: str, preprocessor: Mapping[str, Any] | None, own: nn.Module) -> None:
    """The teacher sees the student's images, so both must have been made for the same ones."""
    if not preprocessor or not isinstance(getattr(own, "mean", None), Tensor):
        return
    for name in ("mean", "std"):
        theirs, ours = preprocessor.get(name), getattr(own, name).flatten()
        if theirs is not None and not torch.allclose(torch.as_tensor(theirs, dtype=ours.dtype), ours.cpu(), rtol=1e-4):
            raise ValueError(
                f"{owner}: the teacher was trained on images normalised with {name}={list(theirs)}, the student gets "
                f"{name}={ours.tolist()}: set the same data_preprocessor in both configs."
            )
