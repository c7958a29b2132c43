"""Detectors and segmentors that learn from a teacher, whatever their class."""

import copy
import functools
from collections.abc import Mapping
from typing import Any, cast

from mmengine.config import ConfigDict
from torch import Tensor, nn

from mmkdprune.arguments import checked
from mmkdprune.registry import MODELS

from ..utils import set_aside
from .dense_taps import recorded
from .dense_terms import DenseTerms, check_losses, is_used
from .teacher import LearnsFromTeacher, build_teacher

_LINE = (
    "model=dict(_delete_=True, type='mmkdprune.DenseDistillation', model={{_base_.model}}, "
    "teacher=dict(config='...', checkpoint='...'), losses=[dict(type='mmkdprune.ChannelWiseDistillationLoss', "
    "at='logits')])"
)


@MODELS.register_module()
class DenseDistillation:
    """Builds a detector or segmentor that also learns the maps of a trained teacher.

    What is built is an instance of the stock class with the stock keys; test loops, inferencers and hooks work as
    ever. The training step adds terms to the losses of the stock class: their maps come from its own forward pass, and
    from one of the teacher on the same images. The teacher is in no checkpoint, optimizer or average of weights.
    Adapters are trained beside the network, under the prefix ``distillation.``::

        model = dict(
            _delete_=True,
            type='mmkdprune.DenseDistillation',
            model={{_base_.model}},
            teacher=dict(config='mmseg::pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024.py', checkpoint='...'),
            losses=[dict(type='mmkdprune.ChannelWiseDistillationLoss', at='logits')])

    Args:
        model (dict): Config of a stock MMDetection or MMSegmentation model, the student.
        teacher (dict): ``dict(config='...', checkpoint='...')``; without ``config`` the teacher has the student's own.
            Further fields are those of ``KnowledgeDistillation``: ``precision``, ``allow_other_classes``,
            ``allow_other_images``.
        losses (list[dict]): One entry per term: ``type`` and arguments of a loss that is called as
            ``loss(student_map, teacher_map)``; ``at``: ``'backbone'``, ``'neck'``, ``'logits'`` (the class maps of the
            decode head, or of the dense head of a detector) or the path of a module; ``levels`` (list[int],
            optional): which of several maps, all by default, whose losses are added up; ``adapter`` (bool): a 1x1
            convolution from the student's width to the teacher's where they differ, False by default.
            ``loss_weight=0`` leaves an entry out.
        data_preprocessor (dict, optional): That of the whole config, which a runner hands over.

    Raises:
        ValueError: If a field is missing or malformed, or teacher and student do not fit.
    """

    @checked
    def __new__(  # type: ignore[misc]
        cls,
        model: Mapping[str, Any] | None = None,
        teacher: Mapping[str, Any] | None = None,
        losses: list | None = None,
        data_preprocessor: dict | None = None,
        **fields: Any,
    ) -> nn.Module:
        """Build; see the class."""
        if not isinstance(model, Mapping) or "type" not in model or fields:
            got = f"got {sorted(fields)} beside it" if fields else f"got model={model!r}"
            raise ValueError(f"DenseDistillation wraps the config of a whole model: {_LINE}; {got}.")
        check_losses(losses)
        settings = copy.deepcopy(dict(model))
        if data_preprocessor is not None:
            settings.setdefault("data_preprocessor", data_preprocessor)
        network: Any = _build(settings)
        assert losses is not None
        if not is_used(losses):
            return network
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise ValueError("DenseDistillation: model is frozen as a whole, so the student cannot learn: unfreeze it.")
        if teacher is None:
            raise ValueError("DenseDistillation: needs teacher=dict(config='...', checkpoint='...').")
        frozen = build_teacher(teacher, network, _build, "DenseDistillation", settings)
        stock: Any = type(network)
        network.__class__ = _distilled(stock)
        network.teacher = frozen
        network.distillation = DenseTerms(losses, network, frozen.network)
        return network


class DistilledModel(LearnsFromTeacher):
    """What a stock class gets in front of it."""

    trains_whole = True  # cannot be split over processes (mmkdprune.engine.wrapping)
    distillation: DenseTerms

    def init_weights(self) -> None:
        """Initialise the stock model as ever, and load the teacher."""
        with set_aside(cast(nn.Module, self), ["distillation"]):  # initialised when it was made
            super().init_weights()  # type: ignore[misc]
        assert self.teacher is not None
        self.teacher.load()

    def loss(self, inputs: Tensor, data_samples: Any) -> dict[str, Any]:
        """Compute the losses of the stock class, and the terms of distillation.

        Args:
            inputs (Tensor): Normalised images, (N, C, H, W).
            data_samples (Any): As the stock class takes them.

        Returns:
            dict[str, Any]: The stock class's losses, and one scalar per term.
        """
        terms, teacher = self.distillation, self.teacher
        assert teacher is not None
        with recorded(cast(nn.Module, self), terms.taps(0)) as ours:
            losses = super().loss(inputs, data_samples)  # type: ignore[misc]
        theirs = teacher.run(functools.partial(terms.of_teacher, teacher.network), inputs)
        return {**losses, **terms.losses(ours, theirs)}


def _build(settings: Mapping[str, Any]) -> nn.Module:
    return MODELS.build(ConfigDict(copy.deepcopy(dict(settings))))


@functools.cache
def _distilled(stock: Any) -> Any:
    """Subclass of a stock class, under its name."""
    return type(stock.__name__, (DistilledModel, stock), {"__doc__": stock.__doc__, "__module__": stock.__module__})
