"""MixSKD: self-distillation from mixup."""

from typing import Any

import torch
import torch.nn as nn
from mmpretrain.structures import DataSample
from torch import Tensor

from mmkdprune.arguments import checked
from mmkdprune.randomness import PrivateRandom, isolated_random_state, to_device
from mmkdprune.registry import MODELS

from ..branches import lowest_map
from ..losses import interpolate_pairs
from ..utils import build_initialised, is_number
from .branched_classifier import BranchedClassifier


@MODELS.register_module()
class MixSKD(BranchedClassifier):
    """Train a classifier with self-distillation from mixup.

    Change a config's ``type='ImageClassifier'`` to ``type='mmkdprune.MixSKD'``. Branches after every inner stage, a
    self-teacher and discriminators are trained beside the deployable network and dropped when it is exported. A step
    is one forward pass of 2B images: the batch and its mixup.

    Source: Yang et al., "MixSKD: Self-Knowledge Distillation from Mixup for Image Recognition", ECCV 2022,
    arXiv 2208.05768. The defaults follow the authors' ImageNet script; what their CIFAR script does differently is an
    option.

    Args:
        backbone (dict | nn.Module): Backbone with at least two stages of feature maps. Those whose stages are known
            get copies of them as branches, others convolutional ones (see ``docs/backbones.md``).
        neck (dict, optional): Neck of the deployable network.
        head (dict): Head of the deployable network with plain cross-entropy.
        loss (dict): Objective. Defaults to ``dict(type='mmkdprune.MixSKDLoss', temperature=3.)``.
        loss_weights (dict[str, float], optional): Weights of ``loss_ce, loss_mix_ce, loss_teacher_ce,
            loss_kd_backbone, loss_kd_branches, loss_feat, loss_disc``, 1 each by default. All 0: the plain training
            step on the original images. ``loss_mix_ce`` = ``loss_teacher_ce`` = 0 is the authors' CIFAR script.
        alpha (float): The mixing coefficient is drawn from Beta(alpha, alpha), once a step and process. 0.4 for
            CIFAR (default), 0.2 for ImageNet.
        branch_type (str): ``'auto'``, ``'stage_copy'`` or ``'conv'``, see
            :func:`mmkdprune.models.branches.build_branches`. Defaults to ``'auto'``.
        branch_depth (str): ``'full'`` or ``'light'`` (one block a copied stage). Defaults to ``'full'``.
        self_teacher (dict): Config of the self-teacher.
        discriminator (dict): Config of the discriminators, one a head.
        train_discriminator (bool): False keeps the discriminators at their random weights, as in the authors' code.
            Defaults to True.
        disc_grad_reverse (bool): Reverse the gradient between discriminators and network, so that the network tries
            to fool them. The authors minimise jointly. Defaults to False.
        **kwargs: Further arguments of MMPretrain's ``ImageClassifier``.

    Raises:
        ValueError: If the backbone cannot give two stages, an option value is unknown, or the config asks for batch
            augments, soft targets or a loss other than plain cross-entropy.
    """

    loss_names = (
        "loss_ce",
        "loss_mix_ce",
        "loss_teacher_ce",
        "loss_kd_backbone",
        "loss_kd_branches",
        "loss_feat",
        "loss_disc",
    )

    @checked
    def __init__(
        self,
        backbone: dict | nn.Module,
        neck: dict | list[dict] | nn.Module | None = None,
        head: dict | nn.Module | None = None,
        loss: dict | None = None,
        loss_weights: dict[str, float] | None = None,
        alpha: float = 0.4,
        branch_type: str = "auto",
        branch_depth: str = "full",
        self_teacher: dict | None = None,
        discriminator: dict | None = None,
        train_discriminator: bool = True,
        disc_grad_reverse: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, neck=neck, head=head, loss_weights=loss_weights, **kwargs)
        if not (is_number(alpha) and alpha > 0):
            raise ValueError(
                f"MixSKD: alpha must be a positive number (mixing coefficient ~ Beta(alpha, alpha)), got {alpha!r}."
            )
        if self.is_plain:
            return
        self.alpha = alpha
        self.disc_grad_reverse = disc_grad_reverse
        self.mixup_random = PrivateRandom("mixskd.mixup")
        self.criterion = MODELS.build({"type": "mmkdprune.MixSKDLoss", **(loss or {})})
        # Random draws of the train-only parts stay apart, so that a seed gives the plain twin's initial weights.
        with isolated_random_state("mixskd.init"):
            self.add_stage_branches(self.num_classes, branch_type, branch_depth)
            self._build_train_only_parts(self_teacher, discriminator)
        if self.is_used("loss_disc"):
            self.discriminators.requires_grad_(train_discriminator)
        if self.is_used("loss_kd_backbone"):
            # A self-teacher without a loss of its own stays as drawn; weight decay must not touch it either.
            self.self_teacher.requires_grad_(self.is_used("loss_teacher_ce"))

    def _build_train_only_parts(self, self_teacher: dict | None, disc: dict | None) -> None:
        num_heads, channels = self.stage_protocol.num_stages, self.feature_channels
        if self.is_used("loss_teacher_ce", "loss_kd_backbone"):
            sizes = {"in_channels": channels, "num_feats": num_heads, "num_classes": self.num_classes}
            self.self_teacher = self._build_part("self_teacher", "SelfTeacherHead", sizes, self_teacher)
        if self.is_used("loss_disc"):
            self.discriminators = nn.ModuleList(
                self._build_part("discriminator", "DiscriminatorHead", {"in_channels": channels}, disc)
                for _ in range(num_heads)
            )

    @staticmethod
    def _build_part(field: str, default_type: str, sizes: dict, config: dict | None) -> nn.Module:
        config = config or {}
        if clash := sorted(sizes.keys() & config.keys()):
            raise ValueError(
                f"MixSKD: {field} must not set {clash}, which follow from the deployable network ({sizes}): leave them "
                "out."
            )
        # initialised here, where random draws are kept apart
        return build_initialised({"type": f"mmkdprune.{default_type}", **sizes, **config})

    @property
    def min_batch_size(self) -> int:
        """Two images, which are mixed with each other; the plain step needs one."""
        return 1 if self.is_plain else 2

    def random_draws(self, inputs: Tensor, target: Tensor, data_samples: list[DataSample]) -> tuple[Tensor, ...]:
        """Draw the mixing coefficient and the partners; see :meth:`draw_mixup`."""
        return self.draw_mixup(inputs)

    def distillation_loss(self, inputs: Tensor, target: Tensor, *draws: Tensor) -> dict[str, Tensor]:
        """Compute the unweighted terms of MixSKD; see :class:`mmkdprune.models.losses.MixSKDLoss`."""
        lam, perm = draws
        batch = torch.cat([inputs, interpolate_pairs(inputs, lam, perm)])
        logits, feats, pooled = self.forward_heads(batch)
        # Pooling commutes with interpolation, so self-teacher and discriminators never see spatial maps. (A norm after
        # it, ConvNeXt's, does not: there what is classified is interpolated, not the maps.)
        lerped = [interpolate_pairs(rows.chunk(2)[0], lam, perm) for rows in pooled]
        mixed = [rows.chunk(2)[1] for rows in pooled]
        teacher_lerp = teacher_mix = disc_logits = None
        if self.is_used("loss_teacher_ce", "loss_kd_backbone"):
            teacher_lerp, teacher_mix = self.self_teacher(lerped), self.self_teacher(mixed)
        if self.is_used("loss_disc"):
            pairs = [torch.cat(pair) for pair in zip(lerped, mixed, strict=True)]
            if self.disc_grad_reverse:
                pairs = [2 * rows.detach() - rows for rows in pairs]  # the value of rows, minus its gradient
            disc_logits = [disc(rows) for disc, rows in zip(self.discriminators, pairs, strict=True)]
        return self.criterion(logits, feats, teacher_lerp, teacher_mix, target, lam, perm, disc_logits)

    def draw_mixup(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the mixing coefficient and the partners of a batch from the model's private random stream.

        Args:
            inputs (Tensor): The images, (B, C, H, W).

        Returns:
            tuple[Tensor, Tensor]: The coefficient, 0-dimensional, and the partners, int64, (B,), on the images' device.

        Raises:
            ValueError: If the batch holds a single image, which has no partner.
        """
        batch_size, device = inputs.shape[0], inputs.device
        if batch_size < 2:
            raise ValueError(
                "MixSKD mixes pairs of images, and batch norm needs several, but this batch holds 1 image: set "
                "train_dataloader.batch_size to 2 or more and train_dataloader.drop_last=True."
            )
        lam = self.mixup_random.beta(self.alpha, self.alpha)
        perm = self.mixup_random.permutation(batch_size)
        return torch.full((), lam, dtype=inputs.dtype, device=device), to_device(perm, device)

    def forward_heads(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Run the deployable network and all branches in one pass.

        Args:
            images (Tensor): Images, (N, C, H, W).

        Returns:
            tuple[list[Tensor], list[Tensor], list[Tensor]]: Logits (N, C), last feature maps (N, D, h, w) and pooled
            features (N, D) of the K heads, the deployable head last.

        Raises:
            ValueError: If the images are too small for the backbone's stages.
        """
        taps, last_map, own_logits = self.run_stages(images)
        height, width = lowest_map(taps[-2]).shape[-2:]
        if height * width == 1:
            raise ValueError(
                f"images of {images.shape[-2]}x{images.shape[-1]} px are too small for {type(self.backbone).__name__}: "
                "a feature map is down to 1x1 before the last stage. Use larger images, or a backbone for small ones "
                "(ResNet_CIFAR, mmkdprune.CifarResNet)."
            )
        size = last_map.shape[-2:]
        heads = [branch(tap, size) for branch, tap in zip(self.branches, taps[:-1], strict=True)]
        heads.append((own_logits, last_map, self.pool_features(last_map)))
        logits, feats, pooled = zip(*heads, strict=True)
        return list(logits), list(feats), list(pooled)
