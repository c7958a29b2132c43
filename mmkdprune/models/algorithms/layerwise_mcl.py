"""L-MCL: networks that train together and contrast every stage with every stage of the others."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.func import functional_call

from mmkdprune.arguments import checked
from mmkdprune.randomness import isolated_random_state
from mmkdprune.registry import MODELS

from ..branches import BranchDepth
from ..losses import kd_loss
from ..utils import build_initialised, check_target, check_temperature, meta_gradient, peer_configs
from .cohort import CohortClassifier
from .mcl import CONTRASTS
from .stage_classifier import StageClassifier

# One process: nothing to average.
Average = Callable[[Sequence[Tensor]], None]


@MODELS.register_module()
class LayerwiseMCL(CohortClassifier, StageClassifier):
    """Train networks that contrast all of their stages, weighted by a network that learns which pairs are worth it.

    Change a config's ``type='ImageClassifier'`` to ``type='mmkdprune.LayerwiseMCL'``, and its batches to pairs of a
    class (``train_dataloader.batch_sampler=dict(type='mmkdprune.ClassPairBatchSampler')``). Every network has a branch
    after each inner stage, a projection head a stage, and an aggregator whose logits teach the last stage of all
    networks. The deployable network is peer 0, the others are under ``peers.1``, ... A step is one forward pass of each
    network; ``MetaStepHook``, which every runner has, trains the weight network.

    Source: Yang et al., "Online Knowledge Distillation via Mutual Contrastive Learning for Visual Recognition", TPAMI
    2023, arXiv 2207.11518. The defaults are those of the authors' CIFAR script, and the meta step's gradient is the
    exact one, see :func:`mmkdprune.models.utils.meta_gradient`.

    Args:
        backbone (dict): Backbone of peer 0 with at least two stages of feature maps.
        neck (dict, optional): Neck of peer 0.
        head (dict): Head of peer 0 with plain cross-entropy.
        num_peers (int, optional): Number of networks in total, all like peer 0 but for their initial weights. Defaults
            to 2, as in the paper.
        peers (list[dict], optional): The networks other than peer 0, ``dict(backbone=..., neck=..., head=...)``; a
            field that is left out is that of peer 0. All networks need the same number of stages and classes.
        projection (dict): Config of the projection heads. Defaults to ``dict(type='mmkdprune.ProjectionHead')``.
        loss (dict): Objective. Defaults to ``dict(type='mmkdprune.LayerwiseMutualContrastiveLoss', tau=0.1)``.
        loss_weights (dict[str, float], optional): Weights of ``loss_ce`` (1, all stages of all networks),
            ``loss_aggregated_ce`` (1, the aggregators), ``loss_kd`` (1, every last stage learns from every aggregator),
            ``loss_vcl`` (0.1), ``loss_icl`` (0.1), ``loss_soft_vcl`` (1) and ``loss_soft_icl`` (1). All 0: the plain
            training step of peer 0 alone.
        kd_temperature (float): Softmax temperature of ``loss_kd``. Defaults to 3.
        meta_interval (int): Iterations from one meta step to the next. 0 trains no weight network, whose random initial
            weights then weight the pairs of stages: an ablation, and the only choice with SyncBN; the run says so.
            Defaults to 50.
        meta_steps (int): Steps on the contrastive objective within a meta step. Defaults to 2.
        branch_type (str): ``'auto'``, ``'stage_copy'`` or ``'conv'``, see
            :func:`mmkdprune.models.branches.build_branches`. Defaults to ``'auto'``.
        branch_depth (str | int | Sequence): ``'full'``, ``'light'`` (one block a copied stage, the authors' ImageNet
            ResNets), a number of blocks, or a list with one of these a branch. Defaults to ``'full'``.
        evaluate_ensemble (bool): Log ``ensemble/top1``, of the mean of all networks' logits, at validation, besides
            ``peer{n}/top1``. Defaults to True.
        **kwargs: Further arguments of MMPretrain's ``ImageClassifier``.

    Raises:
        ValueError: If there are fewer than two networks, they differ in number of stages or classes, an option is out
            of its range, or the config asks for batch augments, soft targets or a loss other than plain cross-entropy.
    """

    loss_names = ("loss_ce", "loss_aggregated_ce", "loss_kd", *CONTRASTS)
    default_loss_weights = {"loss_vcl": 0.1, "loss_icl": 0.1}
    random_name = "layerwise_mcl"
    peer_class = StageClassifier
    needs_training_labels = False

    @checked
    def __init__(
        self,
        backbone: dict,
        neck: dict | list[dict] | None = None,
        head: dict | None = None,
        num_peers: int | None = None,
        peers: Sequence[dict] | None = None,
        projection: dict | None = None,
        loss: dict | None = None,
        loss_weights: dict[str, float] | None = None,
        kd_temperature: float = 3.0,
        meta_interval: int = 50,
        meta_steps: int = 2,
        branch_type: str = "auto",
        branch_depth: BranchDepth = "full",
        evaluate_ensemble: bool = True,
        **kwargs: Any,
    ) -> None:
        configs = peer_configs({"backbone": backbone, "neck": neck, "head": head}, num_peers, peers)
        for name, number, minimum in (("meta_interval", meta_interval, 0), ("meta_steps", meta_steps, 1)):
            if not isinstance(number, int) or number < minimum:
                raise ValueError(f"LayerwiseMCL: {name} must be an integer of {minimum} or more, got {number!r}.")
        super().__init__(backbone, neck=neck, head=head, loss_weights=loss_weights, **kwargs)
        self.meta_interval = 0
        if self.is_plain:
            return
        self.evaluate_ensemble, self.meta_steps = evaluate_ensemble, meta_steps
        self.kd_temperature = check_temperature("LayerwiseMCL", kd_temperature)
        self.build_peers(configs)
        for index, network in enumerate(self.networks()):
            with isolated_random_state(f"layerwise_mcl.peer{index}.branches"):
                network.add_branches(branch_type, branch_depth)
        self.require_equal("stages", [network.num_stages for network in self.networks()])
        channels = [network.feature_channels for network in self.networks()]
        if self.is_used("loss_aggregated_ce", "loss_kd"):
            self.aggregators = self._build("aggregator", "AggregationHead", channels, num_stages=self.num_stages)
        if self.is_used(*CONTRASTS):
            self.meta_interval = meta_interval
            sizes = [size for size in channels for _ in range(self.num_stages)]
            self.projections = self._build("projection", "ProjectionHead", sizes, **(projection or {}))
            self.criterion = MODELS.build({"type": "mmkdprune.LayerwiseMutualContrastiveLoss", **(loss or {})})
            self.weight_network = self._build("weight", "LayerWeightNetwork", [channels], num_stages=self.num_stages)[0]

    def _build(self, stream: str, default_type: str, sizes: Sequence[Any], **config: Any) -> nn.ModuleList:
        """Build one head a size, with random draws of their own."""
        heads = nn.ModuleList()
        for index, size in enumerate(sizes):
            with isolated_random_state(f"layerwise_mcl.{stream}{index}"):
                heads.append(build_initialised({"type": f"mmkdprune.{default_type}", "in_channels": size, **config}))
        return heads

    @property
    def needs_class_pairs(self) -> bool:
        """Whether images are compared with others of their class in the same batch."""
        return not self.is_plain and self.is_used(*CONTRASTS)

    def distillation_loss(self, inputs: Tensor, target: Tensor, *draws: Tensor) -> dict[str, Tensor]:
        """Compute the unweighted terms, sums over networks, stages and ordered pairs."""
        check_target("LayerwiseMCL", target, self.num_classes)
        logits, pooled = zip(*(network.forward_stages(inputs) for network in self.networks()), strict=True)
        losses = {"loss_ce": self._task(logits, target)}
        if self.is_used("loss_aggregated_ce", "loss_kd"):
            aggregated = [head(p, z) for head, p, z in zip(self.aggregators, pooled, logits, strict=True)]
            losses["loss_aggregated_ce"] = torch.stack([F.cross_entropy(rows, target) for rows in aggregated]).sum()
            losses["loss_kd"] = self._distil([rows[-1] for rows in logits], aggregated)
        if self.is_used(*CONTRASTS):
            with torch.no_grad():
                weights = self.weight_network(pooled)
            losses |= self.criterion(self._project(pooled), target, weights)
        return losses

    def _distil(self, students: Sequence[Tensor], teachers: Sequence[Tensor]) -> Tensor:
        """Sum over all pairs of a network and an aggregator, its own included."""
        shape = (len(students), len(teachers), *students[0].shape)
        rows = torch.stack(list(students)).unsqueeze(1).expand(shape).flatten(0, 2)
        others = torch.stack(list(teachers)).unsqueeze(0).expand(shape).flatten(0, 2)
        return shape[0] * shape[1] * kd_loss(rows, others, self.kd_temperature)

    def _project(self, pooled: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
        heads = iter(self.projections)
        return [[next(heads)(rows) for rows in stages] for stages in pooled]

    @staticmethod
    def _task(logits: Sequence[Sequence[Tensor]], target: Tensor) -> Tensor:
        return torch.stack([F.cross_entropy(rows, target) for stages in logits for rows in stages]).sum()

    def contrast_objective(self, inputs: Tensor, target: Tensor) -> Tensor:
        """What a meta step's first steps minimise: the weighted contrastive terms, with gradients to the weights.

        Args:
            inputs (Tensor): Normalised images, (B, C, H, W).
            target (Tensor): Class indices, int64, (B,).

        Returns:
            Tensor: A scalar.
        """
        pooled = [network.forward_stages(inputs)[1] for network in self.networks()]
        losses = self.criterion(self._project(pooled), target, self.weight_network(pooled))
        return torch.stack(list(self.weighted(losses).values())).sum()

    def task_objective(self, inputs: Tensor, target: Tensor) -> Tensor:
        """What a meta step is judged by: the cross-entropy of all stages of all networks.

        Args:
            inputs (Tensor): Normalised images, (B, C, H, W).
            target (Tensor): Class indices, int64, (B,).

        Returns:
            Tensor: A scalar.
        """
        return self._task([network.forward_stages(inputs)[0] for network in self.networks()], target)

    def weight_gradient(
        self,
        inputs: Tensor,
        data_samples: list[DataSample],
        lr: float,
        momentum: float,
        weight_decay: float,
        average: Average | None = None,
    ) -> list[Tensor]:
        """Compute the gradient of the weight network's parameters through steps that it guides.

        From the present weights, ``meta_steps`` steps of SGD on :meth:`contrast_objective` and one on
        :meth:`task_objective` lead to where :meth:`task_objective` is differentiated. Nothing of the model changes:
        weights and statistics of the steps are copies.

        Args:
            inputs (Tensor): Normalised images, (B, C, H, W).
            data_samples (list[DataSample]): One class label an image.
            lr (float): Learning rate of the steps.
            momentum (float): Their momentum, which starts at 0.
            weight_decay (float): Their weight decay.
            average (Callable, optional): Averages tensors over processes, in place.

        Returns:
            list[Tensor]: One gradient a parameter of ``self.weight_network``.
        """
        target = self.hard_targets(data_samples)
        prefix = "weight_network."
        guides = {n: p.detach().clone().requires_grad_() for n, p in self.named_parameters() if n.startswith(prefix)}
        moved = {
            name: parameter
            for name, parameter in self.named_parameters()
            if parameter.requires_grad and not name.startswith(("aggregators.", prefix))
        }
        steps = _RepeatableSteps(self, list(moved), guides, inputs, target)
        contrast, task = (partial(steps.objective, method) for method in ("contrast_objective", "task_objective"))
        return meta_gradient(
            [contrast] * self.meta_steps + [task],
            task,
            list(moved.values()),
            list(guides.values()),
            lr,
            momentum,
            weight_decay,
            **({} if average is None else {"average": average}),
        )

    def train_only_accuracy(self, inputs: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Score the other networks, and the ensemble of all, on validation images."""
        if self.is_plain:
            return {}
        logits = [network.deployable_logits(inputs) for network in self.networks()]
        return self.peer_accuracy(logits, target, self.evaluate_ensemble)


class _RepeatableSteps(nn.Module):
    """Objectives of a model on one batch as functions of some of its parameters; the same whenever they are called.

    Args:
        model (LayerwiseMCL): Whose objectives they are. It stays as it is.
        names (Sequence[str]): The parameters that the functions take.
        guides (dict[str, Tensor]): Others that stand in for the model's own.
        inputs (Tensor): Normalised images, (B, C, H, W).
        target (Tensor): Class indices, int64, (B,).
    """

    def __init__(
        self, model: nn.Module, names: Sequence[str], guides: dict[str, Tensor], inputs: Tensor, target: Tensor
    ) -> None:
        super().__init__()
        self.model, self.names, self.guides, self.batch = model, names, guides, (inputs, target)

    def objective(self, method: str, values: list[Tensor]) -> Tensor:
        """Call a method of the model with these values of the parameters."""
        # Statistics are copied each time, and dropout draws the same numbers when a step is retraced.
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        state = dict(zip(self.names, values, strict=True)) | self.guides | buffers
        device = self.batch[0].device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.default_generator.manual_seed(0)
            if devices:
                torch.cuda.manual_seed(0)
            return functional_call(self, {f"model.{name}": value for name, value in state.items()}, (method,))

    def forward(self, method: str) -> Tensor:
        """Call a method of the model; ``functional_call`` reaches no other than this one."""
        return getattr(self.model, method)(*self.batch)
