"""MCL: networks that train together and contrast their embeddings with each other's."""

from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmkdprune.arguments import checked
from mmkdprune.randomness import isolated_random_state
from mmkdprune.registry import MODELS

from ..branches import find_stage_protocol, share_stages
from ..losses import MemoryMutualContrastiveLoss, kd_loss
from ..utils import (
    MemoryIndexSampler,
    check_target,
    check_temperature,
    peer_configs,
    sample_indices,
    upcast_half,
)
from .cohort import CohortClassifier
from .embeddings import build_projection, classifies_features, classify, run_network

CONTRASTS = ("loss_vcl", "loss_icl", "loss_soft_vcl", "loss_soft_icl")
DISTILLED = ("auto", "all", "deployable")


@MODELS.register_module()
class MCL(CohortClassifier):
    """Train a cohort of networks that contrast images within each network and between networks.

    Change a config's ``type='ImageClassifier'`` to ``type='mmkdprune.MCL'``, and its batches to pairs of a class
    (``train_dataloader.batch_sampler=dict(type='mmkdprune.ClassPairBatchSampler')``). The deployable network is peer 0,
    with the keys of the plain twin; the others are under ``peers.1``, ... and ``tools/export_backbone.py --peer 1``
    exports one of them. A step is one forward pass of each network on the same batch; projection heads are trained
    beside the networks and dropped when one is exported.

    Source: Yang et al., "Mutual Contrastive Learning for Visual Representation Learning", AAAI 2022, arXiv 2104.12565
    (supervised forms). The defaults are those of the authors' CIFAR script for two networks.

    Args:
        backbone (dict): Backbone of peer 0.
        neck (dict, optional): Neck of peer 0.
        head (dict): Head of peer 0 with plain cross-entropy.
        num_peers (int, optional): Number of networks in total, all like peer 0 but for their initial weights. Defaults
            to 2. One network alone learns by contrast within itself.
        peers (list[dict], optional): The networks other than peer 0, ``dict(backbone=..., neck=..., head=...)``; a
            field that is left out is that of peer 0. All networks need the same classes.
        shared_stages (int): Stages that all networks have in common, with the stem before them; each network branches
            off after them. Needs networks of one architecture. Defaults to 0, independent networks; the authors' four
            networks share 1 stage on CIFAR and 2 on ImageNet.
        projection (dict): Config of the projection heads. Defaults to ``dict(type='mmkdprune.ProjectionHead')``.
        loss (dict): Objective. Defaults to ``dict(type='mmkdprune.MutualContrastiveLoss', tau=0.1)``, within a batch;
            ``dict(type='mmkdprune.MemoryMutualContrastiveLoss')`` compares with memory banks, whose size is that of the
            training set.
        num_positives (int): With memory banks: images of its class that an image is compared with. Defaults to 1.
        num_negatives (int): With memory banks: images of other classes. Defaults to 8192.
        loss_weights (dict[str, float], optional): Weights of ``loss_ce`` (1), ``loss_vcl`` (0.1), ``loss_icl`` (0.1),
            ``loss_soft_vcl`` (1), ``loss_soft_icl`` (1) and ``loss_kd`` (0), distillation of logits from the mean of
            all networks' logits. All 0: the plain training step of peer 0 alone.
        distilled (str): Who learns by ``loss_kd``: ``'all'`` networks, the ``'deployable'`` one only, or ``'auto'``
            (default), all of two networks and the deployable one of more, as the authors' CIFAR script does.
        kd_temperature (float): Softmax temperature of ``loss_kd``. Defaults to 3.
        evaluate_ensemble (bool): Log ``ensemble/top1``, of the mean of all networks' logits, at validation, besides
            ``peer{n}/top1``. Defaults to True.
        **kwargs: Further arguments of MMPretrain's ``ImageClassifier``.

    Raises:
        ValueError: If there is no network, they differ in their classes, an option is unknown or does not suit the
            networks, or the config asks for batch augments, soft targets or a loss other than plain cross-entropy.
    """

    loss_names = ("loss_ce", *CONTRASTS, "loss_kd")
    default_loss_weights = {"loss_vcl": 0.1, "loss_icl": 0.1, "loss_kd": 0.0}
    random_name = "mcl"

    @checked
    def __init__(
        self,
        backbone: dict,
        neck: dict | list[dict] | None = None,
        head: dict | None = None,
        num_peers: int | None = None,
        peers: Sequence[dict] | None = None,
        shared_stages: int = 0,
        projection: dict | None = None,
        loss: dict | None = None,
        num_positives: int = 1,
        num_negatives: int = 8192,
        loss_weights: dict[str, float] | None = None,
        distilled: str = "auto",
        kd_temperature: float = 3.0,
        evaluate_ensemble: bool = True,
        **kwargs: Any,
    ) -> None:
        configs = peer_configs({"backbone": backbone, "neck": neck, "head": head}, num_peers, peers, minimum=1)
        if distilled not in DISTILLED:
            raise ValueError(f"MCL: distilled must be one of {DISTILLED}, got {distilled!r}.")
        super().__init__(backbone, neck=neck, head=head, loss_weights=loss_weights, **kwargs)
        if self.is_plain:
            return
        self.evaluate_ensemble = evaluate_ensemble
        self.kd_temperature = check_temperature("MCL", kd_temperature)
        self.build_peers(configs)
        for network in self.networks():
            if not classifies_features(network):
                network.stage_protocol = find_stage_protocol(network.backbone)
        self.shared_stages = shared_stages
        if shared_stages:
            self._share_stages(shared_stages, with_others=peers is not None)
        only_peer_0 = distilled == "deployable" or (distilled == "auto" and len(configs) > 2)
        self.num_distilled = 1 if only_peer_0 else len(configs)
        self.projections = nn.ModuleList()
        self.memory_indices: MemoryIndexSampler | None = None
        if self.is_used(*CONTRASTS):
            self._build_contrast(projection, loss, len(configs), num_positives, num_negatives)

    def _build_contrast(
        self, projection: dict | None, loss: dict | None, num_nets: int, num_positives: int, num_negatives: int
    ) -> None:
        for index, network in enumerate(self.networks()):
            with isolated_random_state(f"mcl.projection{index}"):
                self.projections.append(build_projection(network, projection))
        settings = {"type": "mmkdprune.MutualContrastiveLoss", **(loss or {})}
        loss_class = MODELS.get(settings["type"])
        if loss_class is not None and issubclass(loss_class, MemoryMutualContrastiveLoss):
            settings |= {"dim": self.projections[0].out_channels, "num_nets": num_nets}
            self.memory_indices = MemoryIndexSampler(num_positives, num_negatives)
        with isolated_random_state("mcl.banks"):
            self.criterion = MODELS.build(settings)

    def _share_stages(self, number: int, with_others: bool) -> None:
        """Give all networks peer 0's modules up to a stage; in a checkpoint each has them under its own keys."""
        protocol = find_stage_protocol(self.backbone)
        if with_others or not protocol.can_copy:
            raise ValueError(
                f"MCL: shared_stages={number} needs networks of one architecture whose stages are known, got "
                f"{'other networks in peers' if with_others else type(self.backbone).__name__}: set shared_stages=0 "
                "for independent networks."
            )
        if not isinstance(number, int) or not 1 <= number < protocol.num_stages:
            raise ValueError(
                f"MCL: shared_stages must be less than the {protocol.num_stages} stages of "
                f"{type(self.backbone).__name__}, and 0 or more, got {number!r}."
            )
        _, *others = (network.backbone for network in self.networks())
        share_stages(self.backbone, others, protocol, number)
        self.stage_protocol = protocol

    def init_peers(self) -> None:
        """Initialise the weights of the other networks; what they share with peer 0 keeps its weights."""
        state = (
            {name: value.clone() for name, value in self.backbone.state_dict().items()} if self.shared_stages else {}
        )
        super().init_peers()
        if state:
            self.backbone.load_state_dict(state)

    @property
    def needs_class_pairs(self) -> bool:
        """Whether images are compared with others of their class in the same batch."""
        return self.is_used(*CONTRASTS) and not self.needs_training_labels

    @property
    def needs_training_labels(self) -> bool:
        """Whether :meth:`set_training_labels` must be called before the first step."""
        return not self.is_plain and self.memory_indices is not None

    def set_training_labels(self, labels: Sequence[int]) -> None:
        """Make memory banks and index tables for the training set; in a run ``TrainingLabelsHook`` calls this.

        Args:
            labels (Sequence[int]): The class of each image, by its sample index, (n,).

        Raises:
            ValueError: If the banks are for another number of images.
        """
        if self.memory_indices is None:
            return
        device = next(self.parameters()).device
        with isolated_random_state("mcl.banks"):
            self.criterion.allocate(len(labels), device)
        self.memory_indices.set_labels(labels, device)

    def random_draws(self, inputs: Tensor, target: Tensor, data_samples: list[DataSample]) -> tuple[Tensor, ...]:
        """Draw the entries of the memory banks that images are compared with; samples then need their index."""
        if self.memory_indices is None:
            return ()
        return self.memory_indices(sample_indices(data_samples, inputs.device), target)

    def compile_step(self, **options: Any) -> str:
        """Compile the tensor part of the step, without contrast with memory banks, which makes its own gradients."""
        if self.needs_training_labels:
            uncompiled = torch.compiler.disable(type(self.criterion).forward)
            self.criterion.forward = MethodType(uncompiled, self.criterion)
        part = super().compile_step(**options)
        return f"{part} but the contrast with memory banks" if self.needs_training_labels else part

    def distillation_loss(self, inputs: Tensor, target: Tensor, *entries: Tensor) -> dict[str, Tensor]:
        """Compute the unweighted terms.

        Args:
            inputs (Tensor): Normalised images, (B, C, H, W).
            target (Tensor): Class indices, int64, (B,).
            *entries (Tensor): With memory banks: positives (B, 1 + P) and negatives (B, K), from
                :class:`mmkdprune.models.utils.MemoryIndexSampler`.

        Returns:
            dict[str, Tensor]: Scalars keyed by ``loss_names``, sums over networks and ordered pairs of networks;
            without the terms that are not used.
        """
        check_target("MCL", target, self.num_classes)
        logits, pooled = self.forward_networks(inputs)
        logits = [upcast_half(rows) for rows in logits]
        losses = {"loss_ce": torch.stack([F.cross_entropy(rows, target) for rows in logits]).sum()}
        if self.is_used(*CONTRASTS):
            embeddings = [head(rows) for head, rows in zip(self.projections, pooled, strict=True)]
            losses |= self.criterion(embeddings, *(entries or (target,)))
        if self.is_used("loss_kd") and len(logits) > 1:
            students, ensemble = torch.stack(logits[: self.num_distilled]), torch.stack(logits).mean(0)
            teachers = ensemble.expand_as(students)
            rows = len(students) * kd_loss(students.flatten(0, 1), teachers.flatten(0, 1), self.kd_temperature)
            losses["loss_kd"] = rows
        return losses

    def forward_networks(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Run all networks, what they share once.

        Args:
            images (Tensor): Normalised images, (N, C, H, W).

        Returns:
            tuple[list[Tensor], list[Tensor]]: Logits (N, C) and pooled features (N, D_i) of each network.
        """
        if not self.shared_stages:
            logits, pooled = zip(*(run_network(network, images) for network in self.networks()), strict=True)
            return list(logits), list(pooled)
        protocol, number = self.stage_protocol, self.shared_stages
        own = protocol.forward(self.backbone, images)
        runs = [own, *(protocol.resume(peer.backbone, own.taps, number) for peer in self.peers.values())]
        classified = [
            classify(network, run.outputs, run.last_map) for network, run in zip(self.networks(), runs, strict=True)
        ]
        logits, pooled = zip(*classified, strict=True)
        return list(logits), list(pooled)

    def train_only_accuracy(self, inputs: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Score the other networks, and the ensemble of all, on validation images."""
        if self.is_plain or not self.peers:
            return {}
        return self.peer_accuracy(self.forward_networks(inputs)[0], target, self.evaluate_ensemble)
