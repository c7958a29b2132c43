"""Classic knowledge distillation, which every table compares with."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmkdprune.arguments import checked
from mmkdprune.randomness import isolated_random_state
from mmkdprune.registry import MODELS

from ..losses import KDLoss
from ..utils import NETWORK_FIELDS, check_target, upcast_half
from .base import DistillationClassifier
from .teacher import PREPROCESSOR, build_teacher


@MODELS.register_module()
class KnowledgeDistillation(DistillationClassifier):
    """Train a classifier on labels and on the class distribution of a trained teacher.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531.

    Args:
        backbone (dict | nn.Module): Any backbone.
        neck (dict, optional): Neck of the deployable network.
        head (dict): Head of the deployable network with plain cross-entropy.
        teacher (dict): ``dict(config='...', checkpoint='...')`` with the config that trained the teacher (a path or
            ``package::path``), or its ``backbone, neck, head`` in place of ``config``. Of a teacher that was trained
            with another algorithm the deployable network is used. ``precision='bf16'`` or ``'fp16'`` runs its forward
            pass in that type, ``'fp32'`` never in another; without it the teacher follows the student.
        loss (dict | nn.Module, optional): The distillation term, ``loss_kd``: a registered loss that is called as
            ``loss(student_logits, teacher_logits, target)``, such as ``dict(type='mmkdprune.DKDLoss')``. Defaults to
            :class:`KDLoss`.
        temperature (float, optional): Softmax temperature of ``KDLoss``, where ``loss`` is not given. Defaults to 4.
        loss_weights (dict[str, float], optional): Weights of ``loss_ce, loss_kd``, 1 each by default. All 0: the plain
            training step.
        **kwargs: Further arguments of MMPretrain's ``ImageClassifier``.

    Raises:
        ValueError: If the teacher's or another option is malformed, ``loss`` and ``temperature`` are both given, the
            numbers of classes differ, or the config asks for batch augments, soft targets or a loss of the head other
            than plain cross-entropy.
    """

    loss_names = ("loss_ce", "loss_kd")

    @checked
    def __init__(
        self,
        backbone: dict | nn.Module,
        neck: dict | list[dict] | nn.Module | None = None,
        head: dict | nn.Module | None = None,
        teacher: dict | None = None,
        loss: dict | nn.Module | None = None,
        temperature: float | None = None,
        loss_weights: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, neck=neck, head=head, loss_weights=loss_weights, **kwargs)
        if loss is not None and temperature is not None:
            raise ValueError("KnowledgeDistillation: temperature is that of the default loss: give it within loss=...")
        if loss is None:
            loss = KDLoss() if temperature is None else KDLoss(temperature)
        with isolated_random_state("distillation loss"):  # one with parameters of its own
            self.kd_loss = MODELS.build(loss) if isinstance(loss, dict) else loss
        if teacher is None:
            raise ValueError("KnowledgeDistillation: needs teacher=dict(config='...', checkpoint='...').")
        if self.loss_weights["loss_kd"] > 0:
            self.teacher = build_teacher(teacher, self, _build_network)

    def distillation_loss(self, inputs: Tensor, target: Tensor, *draws: Tensor) -> dict[str, Tensor]:
        """Compute the unweighted terms."""
        logits = self.deployable_logits(inputs)
        check_target(type(self).__name__, target, logits.shape[1])
        losses = {"loss_ce": F.cross_entropy(upcast_half(logits), target)}
        if self.teacher is not None:
            taught = self.teacher.run(self.teacher.network.deployable_logits, inputs)
            losses["loss_kd"] = self.kd_loss(logits, taught, target)
        return losses


def _build_network(model: dict) -> DistillationClassifier:
    fields = {name: model[name] for name in NETWORK_FIELDS if name in model}
    return DistillationClassifier(**fields, data_preprocessor=dict(PREPROCESSOR))
