"""HSAKD: distillation of class distributions augmented by rotation, from branches at every stage."""

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mmkdprune.arguments import checked
from mmkdprune.randomness import isolated_random_state
from mmkdprune.registry import MODELS

from ..utils import NETWORK_FIELDS, rotate4
from .joint_branches import JointBranchClassifier
from .teacher import PREPROCESSOR, build_teacher, describe_network, load_whole
from .teacher_data import TeacherData

PHASES = ("teacher", "student")
TEACHER_MODES = ("joint", "frozen")


@MODELS.register_module()
class HSAKD(JointBranchClassifier):
    """Train a teacher whose branches tell class and rotation, then a student that learns from it branch by branch.

    Two runs: one with ``phase='teacher'``, one with ``phase='student'`` and the first one's checkpoint;
    ``tools/train_pipeline.py`` does both. A step is one forward pass of the four rotations of each image. Branches are
    dropped when the network is exported. HSSAKD (the journal version) has the same offline objective.

    Source: Yang et al., "Hierarchical Self-supervised Augmented Knowledge Distillation", IJCAI 2021, arXiv 2107.13715.

    Args:
        backbone (dict | nn.Module): Backbone with at least two stages of feature maps. Teacher and student need
            the same number.
        neck (dict, optional): Neck of the deployable network.
        head (dict): Head of the deployable network with plain cross-entropy.
        phase (str): ``'student'`` (default) or ``'teacher'``.
        teacher (dict): Of the student: ``dict(config='...', checkpoint='...')`` with the config that trained the
            teacher (a path or ``package::path``), or its ``backbone, neck, head, branch_type, branch_depth`` in place
            of ``config``. ``precision='bf16'`` or ``'fp16'`` runs its forward pass in that type, ``'fp32'`` never in
            another; without it the teacher follows the student.
        teacher_mode (str): Of the teacher phase: ``'joint'`` trains everything from scratch (Teacher* in the paper's
            tables, default), ``'frozen'`` only the branches of a pretrained network, which stays in evaluation mode.
        pretrained (str | dict, optional): Checkpoint of a whole classifier to start from, or ``dict(config=...,
            checkpoint=...)``, whose config ``tools/train_pipeline.py`` trains first. Needed by ``'frozen'``.
        loss (dict): Objective. Defaults to ``mmkdprune.HSAKDTeacherLoss`` or ``mmkdprune.HSAKDStudentLoss`` with
            temperature 3.
        loss_weights (dict[str, float], optional): Weights of ``loss_ce, loss_joint_ce`` (teacher) or ``loss_ce,
            loss_kd, loss_joint_kd`` (student), 1 each by default. All 0: the plain training step on the original
            images.
        branch_type (str): ``'auto'``, ``'stage_copy'`` or ``'conv'``, see
            :func:`mmkdprune.models.branches.build_branches`. Defaults to ``'auto'``.
        branch_depth (str): ``'full'`` or ``'light'`` (one block a copied stage). Defaults to ``'full'``.
        evaluate_branches (bool): Log ``branch{l}/joint_top1`` and ``branch{l}/class_top1`` at every validation, which
            costs a forward pass of four rotations. Defaults to True.
        **kwargs: Further arguments of MMPretrain's ``ImageClassifier``.

    Raises:
        ValueError: If an option is unknown or missing, teacher and student differ in number of stages or classes, or
            the config asks for batch augments, soft targets or a loss other than plain cross-entropy.
    """

    @checked
    def __init__(
        self,
        backbone: dict | nn.Module,
        neck: dict | list[dict] | nn.Module | None = None,
        head: dict | nn.Module | None = None,
        phase: str = "student",
        teacher: dict | None = None,
        teacher_mode: str = "joint",
        pretrained: str | dict | None = None,
        loss: dict | None = None,
        loss_weights: dict[str, float] | None = None,
        branch_type: str = "auto",
        branch_depth: str = "full",
        evaluate_branches: bool = True,
        **kwargs: Any,
    ) -> None:
        _check_phase(phase, teacher, teacher_mode, pretrained)
        is_student = phase == "student"
        self.loss_names = ("loss_ce", "loss_kd", "loss_joint_kd") if is_student else ("loss_ce", "loss_joint_ce")
        super().__init__(backbone, neck=neck, head=head, loss_weights=loss_weights, **kwargs)
        self.phase = phase
        self.pretrained = pretrained["checkpoint"] if isinstance(pretrained, Mapping) else pretrained
        self.pretrained_data: TeacherData | None = None
        self.is_frozen = not is_student and teacher_mode == "frozen"
        if self.is_plain:
            return
        if self.is_frozen:  # it stays as it was trained
            settings = pretrained if isinstance(pretrained, Mapping) else {}
            self.pretrained_data = TeacherData("HSAKD", None, self, settings, "pretrained")
        self.evaluate_branches = evaluate_branches
        default = "HSAKDStudentLoss" if is_student else "HSAKDTeacherLoss"
        self.criterion = MODELS.build({"type": f"mmkdprune.{default}", **(loss or {})})
        if self.loss_weights["loss_joint_kd" if is_student else "loss_joint_ce"] > 0:
            # Random draws of the train-only parts stay apart, so that a seed gives the plain twin's initial weights.
            with isolated_random_state("hsakd.init"):
                self.add_joint_branches(branch_type, branch_depth)
        if is_student and (self.loss_weights["loss_kd"] > 0 or self.loss_weights["loss_joint_kd"] > 0):
            assert teacher is not None
            self.teacher = build_teacher(teacher, self, self._build_teacher_network)
            self._compare_stages(self.teacher.network)
        if self.is_frozen:
            self._freeze()

    def init_weights(self) -> None:
        """Initialise the weights, and load the pretrained network and the teacher."""
        super().init_weights()
        if self.pretrained is not None:
            load_whole(self.deployable_parts(), self.pretrained, "pretrained")
            if self.pretrained_data is not None:
                self.pretrained_data.read_checkpoint(self.pretrained)

    def prepare_training(self, resume: bool) -> None:
        """Load the teacher; a run that is resumed has all that it needs of the pretrained network in its checkpoint."""
        super().prepare_training(resume)
        if resume:
            self.pretrained = None
        elif self.pretrained and "://" not in self.pretrained and not os.path.isfile(self.pretrained):
            raise FileNotFoundError(
                f"pretrained: there is no file {self.pretrained}. Set model.pretrained to the checkpoint of the plain "
                "classifier, or train that first (tools/train_pipeline.py trains all in one command)"
            )

    def train(self, mode: bool = True) -> "HSAKD":
        """Set the mode; a frozen network stays in evaluation mode."""
        super().train(mode)
        if self.is_frozen and not self.is_plain:
            self.deployable_parts().eval()
        return self

    def distillation_loss(self, inputs: Tensor, target: Tensor, *draws: Tensor) -> dict[str, Tensor]:
        """Compute the unweighted terms of the phase."""
        images = rotate4(inputs)
        logits, joint_logits = self.forward_joint(images, frozen=self.is_frozen)
        if self.phase == "teacher":
            return self.criterion(logits, joint_logits, target)
        if self.teacher is None:  # all distillation weights are 0, and so are the terms between equals
            taught = logits, joint_logits
        else:
            taught = self.teacher.run(self.teacher.network.forward_joint, images)
        return self.criterion(logits, joint_logits, *taught, target)

    def train_only_accuracy(self, inputs: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Score the branches on validation images; see :meth:`joint_accuracy`."""
        if self.is_plain or not self.evaluate_branches:
            return {}
        return self.joint_accuracy(inputs, target)

    def _build_teacher_network(self, model: dict) -> JointBranchClassifier:
        branch_fields = ("branch_type", "branch_depth")
        fields = {key: model[key] for key in (*NETWORK_FIELDS, *branch_fields) if key in model}
        if "type" not in model:
            unknown = sorted(set(model) - set(fields))
            if unknown:
                raise ValueError(
                    f"HSAKD: teacher has unknown field(s) {unknown}; known: checkpoint, precision and either config or "
                    f"{', '.join((*NETWORK_FIELDS, *branch_fields))}."
                )
        elif not {"backbone", "head"} <= fields.keys():
            raise ValueError(f"HSAKD: teacher.config must be of a classifier, got model.type={model['type']!r}.")
        elif self.loss_weights["loss_joint_kd"] > 0 and model["type"].split(".")[-1] not in ("HSAKD", "OnlineHSSAKD"):
            raise ValueError(
                "HSAKD: teacher.config must be a config with model.type='mmkdprune.HSAKD', phase='teacher', got "
                f"type={model['type']!r}: such a network has no branches to learn from. With "
                "loss_weights=dict(loss_joint_kd=0) its last logits alone are learned from."
            )
        options = {key: fields.pop(key) for key in branch_fields if key in fields}
        network = JointBranchClassifier(**fields, data_preprocessor=dict(PREPROCESSOR))
        if self.loss_weights["loss_joint_kd"] > 0:
            network.add_joint_branches(**options)
        return network

    def _compare_stages(self, teacher: Any) -> None:
        theirs, ours = (len(getattr(network, "branches", ())) for network in (teacher, self))
        if theirs != ours:
            raise ValueError(
                f"HSAKD: the teacher ({describe_network(teacher)}) has {theirs} stages and the student "
                f"({describe_network(self)}) {ours}: branches learn stage by stage, so both need the same number: "
                "choose another pair, or set loss_weights=dict(loss_joint_kd=0) to distil the last logits only."
            )

    def _freeze(self) -> None:
        if self.loss_weights["loss_joint_ce"] == 0:
            raise ValueError("HSAKD: teacher_mode='frozen' trains the branches only: loss_joint_ce must not be 0.")
        self.deployable_parts().requires_grad_(False)


def _check_phase(phase: str, teacher: Any, teacher_mode: str, pretrained: Any) -> None:
    if phase not in PHASES:
        raise ValueError(f"HSAKD: phase must be one of {PHASES}, got {phase!r}.")
    if teacher_mode not in TEACHER_MODES:
        raise ValueError(f"HSAKD: teacher_mode must be one of {TEACHER_MODES}, got {teacher_mode!r}.")
    if phase == "student" and teacher is None:
        raise ValueError(
            "HSAKD: phase='student' needs teacher=dict(config='...', checkpoint='...'); to train the teacher itself "
            "set phase='teacher'."
        )
    if phase == "teacher" and teacher is not None:
        raise ValueError("HSAKD: phase='teacher' trains a teacher and takes none: leave teacher out.")
    if isinstance(pretrained, Mapping) and not isinstance(pretrained.get("checkpoint"), str):
        raise ValueError(f"HSAKD: pretrained must be a file or dict(config=..., checkpoint='...'), got {pretrained!r}.")
    if phase == "teacher" and teacher_mode == "frozen" and not pretrained:
        raise ValueError(
            "HSAKD: teacher_mode='frozen' trains branches on a trained network: set pretrained to the checkpoint of "
            "the plain classifier."
        )
