"""What all distillation algorithms share: loss weights, targets, and what a stock config may not ask for."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmkdprune.arguments import checked

from ..branches import without_pretrained
from ..utils import NETWORK_FIELDS, check_loss_weights, check_target, set_aside
from ..utils.compilation import compile_classifier, compile_method
from .clashes import classifier_clashes
from .teacher import LearnsFromTeacher


class DistillationClassifier(LearnsFromTeacher, ImageClassifier):
    """Base of the algorithms: an ``ImageClassifier`` whose training step has a loss of its own.

    ``backbone``, ``neck`` and ``head`` are the deployable network, with the keys of the plain twin. ``predict`` and
    ``tensor`` modes run nothing else. With all loss weights 0 the training step is the plain one.

    Subclasses list their terms in ``loss_names``, build their train-only parts unless ``self.is_plain`` and override
    :meth:`distillation_loss`. A ``self.teacher`` is moved along with the model and loaded by :meth:`init_weights`.

    Args:
        backbone (dict | nn.Module): As in MMPretrain's ``ImageClassifier``.
        neck (dict, optional): Likewise.
        head (dict): Likewise; its loss must be the plain cross-entropy.
        loss_weights (dict[str, float], optional): Weights of the terms named in ``loss_names``; a term that is not
            named keeps its default, 1 unless ``default_loss_weights`` says otherwise.
        **kwargs: Further arguments of ``ImageClassifier``.

    Raises:
        ValueError: If a weight is unknown or negative, or the config asks for what clashes with the algorithm.
    """

    trains_whole = True  # cannot be split over processes (mmkdprune.engine.wrapping)

    loss_names: tuple[str, ...] = ()
    default_loss_weights: Mapping[str, float] = {}
    step_is_compiled = False

    @checked
    def __init__(
        self,
        backbone: dict | nn.Module,
        neck: dict | list[dict] | nn.Module | None = None,
        head: dict | nn.Module | None = None,
        loss_weights: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, neck=neck, head=head, **kwargs)
        self.loss_weights = check_loss_weights(
            type(self).__name__, loss_weights, self.loss_names, self.default_loss_weights
        )
        self.is_plain = not any(self.loss_weights.values())
        if not self.is_plain:
            self.refuse_clashes()

    def init_weights(self) -> None:
        """Initialise the weights, and load the teacher's.

        An ``init_cfg`` of the whole model draws for all of its parts; train-only ones, initialised when they were made,
        stay apart, so that a seed gives the plain twin's initial weights.
        """
        train_only = [name for name, _ in self.named_children() if name not in ("data_preprocessor", *NETWORK_FIELDS)]
        with set_aside(self, train_only if without_pretrained(self.init_cfg) else ()):
            super().init_weights()
        if self.teacher is not None:
            self.teacher.load()

    def loss(self, inputs: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Compute the weighted terms of one training step.

        Args:
            inputs (Tensor): Normalised images, (B, C, H, W).
            data_samples (list[DataSample]): One class label an image.

        Returns:
            dict[str, Tensor]: Scalars; all keys with ``loss`` are summed and back-propagated.

        Raises:
            ValueError: If targets are soft or hold several labels an image, or the batch does not suit the algorithm.
        """
        if self.is_plain:
            return super().loss(inputs, data_samples)
        target = self.hard_targets(data_samples)
        if self.step_is_compiled:  # a wrong label would end the process without a word on labels
            check_target(type(self).__name__, target, self.num_classes)
        return self.weighted_losses(inputs, target, *self.random_draws(inputs, target, data_samples))

    def weighted(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Multiply each term by its weight.

        Args:
            losses (Mapping[str, Tensor]): Scalars keyed by ``loss_names``.

        Returns:
            dict[str, Tensor]: The same terms, weighted.
        """
        return {name: self.loss_weights[name] * value for name, value in losses.items()}

    def weighted_losses(self, inputs: Tensor, target: Tensor, *draws: Tensor) -> dict[str, Tensor]:
        """Compute the weighted terms: the part of a step that holds tensors only, which :meth:`compile_step` compiles.

        Args:
            inputs (Tensor): Normalised images, (B, C, H, W).
            target (Tensor): Class indices, int64, (B,).
            *draws (Tensor): What :meth:`random_draws` returned.

        Returns:
            dict[str, Tensor]: Scalars keyed by ``loss_names``.
        """
        return self.weighted(self.distillation_loss(inputs, target, *draws))

    def random_draws(self, inputs: Tensor, target: Tensor, data_samples: list[DataSample]) -> tuple[Tensor, ...]:
        """Draw all that is random in a step from the model's private streams; nothing by default.

        Args:
            inputs (Tensor): Normalised images, (B, C, H, W).
            target (Tensor): Class indices, int64, (B,).
            data_samples (list[DataSample]): One an image.

        Returns:
            tuple[Tensor, ...]: Further arguments of :meth:`distillation_loss`, on the images' device.
        """
        return ()

    def distillation_loss(self, inputs: Tensor, target: Tensor, *draws: Tensor) -> dict[str, Tensor]:
        """Compute the unweighted terms; to be overridden.

        It may be compiled: tensors in, tensors out, no number read back from the device.

        Args:
            inputs (Tensor): Normalised images, (B, C, H, W).
            target (Tensor): Class indices, int64, (B,).
            *draws (Tensor): What :meth:`random_draws` returned; methods that draw nothing leave it out.

        Returns:
            dict[str, Tensor]: Scalars keyed by ``loss_names``.
        """
        raise NotImplementedError(f"{type(self).__name__} must override distillation_loss.")

    def compile_step(self, **options: Any) -> str:
        """Compile the tensor part of the training step, for MMEngine's ``compile`` setting.

        Args:
            **options (Any): Arguments of ``torch.compile``.

        Returns:
            str: What is compiled, for the log.
        """
        if self.is_plain:
            return compile_classifier(self, options)
        networks = [self] if self.teacher is None else [self, self.teacher.network]
        for owner in (module for network in networks for module in network.modules()):
            protocol: Any = getattr(owner, "stage_protocol", None)
            if hasattr(protocol, "prepare_compilation"):
                protocol.prepare_compilation(owner.backbone)
        compile_method(self, "weighted_losses", options)
        self.step_is_compiled = True
        return "all networks and losses of the step"

    def train_only_accuracy(self, inputs: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Score what is trained beside the deployable network, for ``TrainOnlyAccuracyHook``.

        Args:
            inputs (Tensor): Normalised validation images, (B, C, H, W).
            target (Tensor): Class indices, int64, (B,).

        Returns:
            dict[str, Tensor]: By log name the share of right answers for each image, float32, (B,). Empty by default.
        """
        return {}

    def is_used(self, *names: str) -> bool:
        """Whether any of these terms has a weight."""
        return any(self.loss_weights[name] > 0 for name in names)

    def head_logits(self, outputs: Any) -> Tensor:
        """Run neck and head of the deployable network.

        Args:
            outputs (Any): What ``self.backbone`` returns.

        Returns:
            Tensor: Logits, (N, C).
        """
        return self.head(self.neck(outputs) if self.with_neck else outputs)

    def deployable_parts(self) -> nn.ModuleDict:
        """Collect backbone, neck and head, as far as there are any, under these names."""
        return nn.ModuleDict({name: part for name in NETWORK_FIELDS if (part := getattr(self, name)) is not None})

    def deployable_logits(self, images: Tensor) -> Tensor:
        """Run the deployable network.

        Args:
            images (Tensor): Normalised images, (N, C_in, H, W).

        Returns:
            Tensor: Logits, (N, C).
        """
        return self.head_logits(self.backbone(images))

    @property
    def num_classes(self) -> int:
        """Number of classes of the deployable head, or of a classifier inside the backbone (VGG)."""
        number = getattr(self.head, "num_classes", None) or getattr(self.backbone, "num_classes", None)
        if not isinstance(number, int) or number < 1:
            raise ValueError(
                f"{type(self).__name__} must know the number of classes, but neither head {type(self.head).__name__} "
                f"nor backbone {type(self.backbone).__name__} has a classifier: use a head with a linear layer of its "
                "own, such as LinearClsHead(num_classes=...)."
            )
        return number

    @property
    def min_batch_size(self) -> int:
        """Images a step needs at least, in each process; checked before training by ``CheckBatchSizeHook``."""
        return 1

    def refuse_clashes(self) -> None:
        """Raise one ``ValueError`` for all settings of head and data preprocessor that the algorithm would ignore."""
        if not self.with_head:
            raise ValueError(
                f"{type(self).__name__} needs a classification head: set head=dict(type='LinearClsHead', ...)."
            )
        if clashes := [f"{type(self).__name__} {clash}" for clash in classifier_clashes(self)]:
            raise ValueError("\n".join(clashes))

    def hard_targets(self, data_samples: Sequence[DataSample]) -> Tensor:
        """Collect the labels of a batch, int64, (B,); soft and multi-label targets raise a ``ValueError``."""
        first = data_samples[0]
        if "gt_score" in first or "gt_label" not in first:
            raise ValueError(
                f"{type(self).__name__} needs one class label an image (gt_label), got "
                f"{'soft targets (gt_score)' if 'gt_score' in first else 'none'}: take Mixup, CutMix and one-hot "
                "transforms out of the pipeline and of model.train_cfg."
            )
        target = torch.cat([sample.gt_label for sample in data_samples])
        if target.numel() != len(data_samples) or target.is_floating_point():
            raise ValueError(
                f"{type(self).__name__} needs one class label an image, got {target.numel()} labels of {target.dtype} "
                f"for {len(data_samples)} images: multi-label data sets are not supported."
            )
        return target
