"""MCL without labels: networks that contrast two views of an image with queues of earlier images."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import broadcast, get_rank, get_world_size
from mmpretrain.models.selfsup.base import BaseSelfSupervisor
from torch import Tensor, nn

from mmkdprune.arguments import checked
from mmkdprune.randomness import PrivateRandom, isolated_random_state
from mmkdprune.registry import MODELS

from ..losses.queue_mutual_contrastive_loss import check_queue
from ..utils import (
    MomentumEncoder,
    QueryEncoder,
    check_loss_weights,
    gather_rows,
    is_number,
    peer_configs,
    unit_embeddings,
)
from ..utils.compilation import compile_method
from .clashes import check_dimensions, check_networks, similarity_temperature


@MODELS.register_module()
class MoCoMCL(BaseSelfSupervisor):
    """Train a cohort of networks on images without labels: momentum contrast within each and between them.

    Takes the options of MMPretrain's ``MoCo``: change a config's ``type='MoCo'`` to ``type='mmkdprune.MoCoMCL'``. Each
    network has a query encoder, a key encoder that follows it slowly and a queue of earlier keys. The deployable
    network is peer 0, at ``backbone.*`` with the keys of any plain network; the query encoders of the others are at
    ``peers.1.*``, ..., key encoders at ``key_encoders.*`` and queues at ``criterion.*``. ``num_peers=1`` is MoCo.

    A step runs the query encoders on the first view, moves the key encoders, and runs them on the second view, shuffled
    once for all of them over the images of all processes ("shuffle BN"): batch statistics then do not tell which query
    a key belongs to. In a single process that takes ``num_groups`` of more than 1.

    Source: Yang et al., "Mutual Contrastive Learning for Visual Representation Learning", AAAI 2022, arXiv 2104.12565
    (self-supervised form). The defaults are those of the authors' script.

    Args:
        backbone (dict): Backbone of peer 0.
        neck (dict): Its neck, which makes the embeddings: ``LinearNeck`` with ``norm_cfg=None`` for MoCo v1,
            ``MoCoV2Neck`` for v2.
        head (dict, optional): ``ContrastiveHead`` with plain cross-entropy, whose ``temperature`` divides the
            similarities. Defaults to ``dict(type='ContrastiveHead', temperature=0.07, ...)``.
        queue_len (int): Keys in each queue; the images of a step in all processes must divide it. Defaults to 65536.
        feat_dim (int): Dimensions of the embeddings. Defaults to 128.
        momentum (float): Share of the query encoder in the new key encoder, between 0 and 1. Defaults to 0.001.
        num_peers (int, optional): Number of networks in total, all like peer 0 but for their initial weights. Defaults
            to 2.
        peers (list[dict], optional): The networks other than peer 0, ``dict(backbone=..., neck=...)``; a field that is
            left out is that of peer 0.
        temperature (float): Further softmax temperature of the soft terms. Defaults to 3.
        loss_weights (dict[str, float], optional): Weights of ``loss_vcl``, ``loss_icl``, ``loss_soft_vcl`` and
            ``loss_soft_icl``; 1 where not given.
        num_groups (int): Parts in which each process runs its images, each with batch statistics of its own, as if
            they were on as many GPUs. Defaults to 1.
        pretrained (str, optional): As in MMPretrain's ``MoCo``.
        data_preprocessor (dict, optional): Likewise.
        init_cfg (dict | list[dict], optional): Likewise.

    Raises:
        ValueError: If there is no network, embeddings differ in their dimensions, or an option is unknown or out of its
            range.
    """

    trains_whole = True  # cannot be split over processes (mmkdprune.engine.wrapping)

    loss_names = ("loss_vcl", "loss_icl", "loss_soft_vcl", "loss_soft_icl")

    @checked
    def __init__(
        self,
        backbone: dict,
        neck: dict | list[dict] | None = None,
        head: dict | None = None,
        queue_len: int = 65536,
        feat_dim: int = 128,
        momentum: float = 0.001,
        num_peers: int | None = None,
        peers: Sequence[dict] | None = None,
        temperature: float = 3.0,
        loss_weights: dict[str, float] | None = None,
        num_groups: int = 1,
        pretrained: str | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        configs = peer_configs({"backbone": backbone, "neck": neck}, num_peers, peers, minimum=1)
        check_networks(configs, feat_dim)
        if not (is_number(momentum) and 0 <= momentum <= 1):
            raise ValueError(f"MoCoMCL: momentum must lie between 0 and 1, got {momentum!r}.")
        if not isinstance(num_groups, int) or isinstance(num_groups, bool) or num_groups < 1:
            raise ValueError(f"MoCoMCL: num_groups must be an integer of 1 or more, got {num_groups!r}.")
        self.loss_weights = check_loss_weights(type(self).__name__, loss_weights, self.loss_names)
        terms = self.loss_names if len(configs) > 1 else self.loss_names[:1]
        if not any(self.loss_weights[name] for name in terms):
            raise ValueError(
                f"MoCoMCL: no term that {len(configs)} network(s) learn from has a weight: give one of {list(terms)} "
                "a positive one in loss_weights; without terms between networks (num_peers=1) it is MoCo."
            )
        super().__init__(
            backbone,
            neck=neck,
            head=head or {"type": "ContrastiveHead", "temperature": 0.07, "loss": {"type": "CrossEntropyLoss"}},
            pretrained=pretrained,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        self.num_groups = num_groups
        self.shuffle = PrivateRandom("moco_mcl.shuffle")
        self._build_criterion(queue_len, feat_dim, len(configs), temperature)
        self.peers = nn.ModuleDict()
        for index, config in enumerate(configs[1:], start=1):
            with isolated_random_state(f"moco_mcl.peer{index}"):
                self.peers[str(index)] = QueryEncoder(config["backbone"], config["neck"])
        self.key_encoders = nn.ModuleList(
            MomentumEncoder(network.backbone, network.neck, momentum) for network in self.networks()
        )

    def _build_criterion(self, queue_len: int, feat_dim: int, num_nets: int, temperature: float) -> None:
        with isolated_random_state("moco_mcl.queues"):
            self.criterion: Any = MODELS.build(
                {
                    "type": "mmkdprune.QueueMutualContrastiveLoss",
                    "queue_size": queue_len,
                    "dim": feat_dim,
                    "num_nets": num_nets,
                    "tau": similarity_temperature(self.head),
                    "temperature": temperature,
                }
            )
        # As MoCo draws it, so that a seed gives peer 0 the weights and the queue of its plain twin.
        self.criterion.queues[0] = F.normalize(torch.randn(feat_dim, queue_len), dim=0).T

    def deployable_parts(self) -> nn.ModuleDict:
        """Collect what is kept after training, under its name: the backbone of peer 0."""
        return nn.ModuleDict({"backbone": self.backbone})

    def networks(self) -> Iterator[Any]:
        """Iterate over the query networks, peer 0 (this model itself) first."""
        yield self
        yield from self.peers.values()

    def init_weights(self) -> None:
        """Initialise the weights of all networks; key encoders take theirs over in the first step."""
        super().init_weights()
        for index, peer in self.peers.items():
            with isolated_random_state(f"moco_mcl.peer{index}.weights"):
                peer.init_weights()  # type: ignore[operator]

    def loss(self, inputs: Sequence[Tensor], data_samples: Any = None, **kwargs: Any) -> dict[str, Tensor]:
        """Compute the weighted terms of one training step; in training mode move key encoders and queues on.

        Args:
            inputs (Sequence[Tensor]): Two views of the same images, normalised, (B, C, H, W) each.
            data_samples (Any): Not used.
            **kwargs (Any): Not used.

        Returns:
            dict[str, Tensor]: Scalars keyed by ``loss_names``, sums over networks and ordered pairs of networks; one
            network has the first only. Besides ``contrast_accuracy``: percent of the images whose key peer 0 finds
            among its queue.

        Raises:
            ValueError: If there are not two views, or the batch does not divide the queue.
        """
        first, second = self._views(inputs)
        queries = self.encode_queries(first)
        if self.training:
            for encoder, network in zip(self.key_encoders, self.networks(), strict=True):
                encoder.update(network.backbone, network.neck)  # type: ignore[operator]
        keys = self.compute_keys(second)  # (n, M, D) of all processes
        own = keys.unflatten(0, (get_world_size(), len(first)))[get_rank()].transpose(0, 1)
        self.criterion.write_waiting()
        losses = self.weighted_losses(queries, own)
        if self.training:
            self.criterion.enqueue(keys)
        return losses

    def weighted_losses(self, queries: Tensor, keys: Tensor) -> dict[str, Tensor]:
        """Compute the weighted terms: a part of a step that holds tensors only, which :meth:`compile_step` compiles.

        Args:
            queries (Tensor): Unit rows of all networks, (M, B, D).
            keys (Tensor): Likewise, of the key encoders.

        Returns:
            dict[str, Tensor]: As from :meth:`loss`.
        """
        logits = self.criterion.compare(queries, keys)
        losses = {name: self.loss_weights[name] * value for name, value in self.criterion.terms(logits).items()}
        right = logits[0, 0].detach().argmax(-1) == 0
        return {**losses, "contrast_accuracy": 100 * right.float().mean()}

    def encode_queries(self, images: Tensor) -> Tensor:
        """Run all query networks on images (B, C, H, W); unit rows, (M, B, D)."""
        return torch.stack([self._embed(network, images) for network in self.networks()])

    def _embed(self, network: Any, images: Tensor) -> Tensor:
        rows = torch.cat([unit_embeddings(network.backbone, network.neck, part) for part in self._groups(images)])
        check_dimensions(type(network.neck).__name__, rows.shape[1], self.criterion.dim)
        return rows

    def compile_step(self, **options: Any) -> str:
        """Compile the tensor parts of the training step, for MMEngine's ``compile`` setting.

        Args:
            **options (Any): Arguments of ``torch.compile``.

        Returns:
            str: What is compiled, for the log.
        """
        for name in ("encode_queries", "encode_keys", "weighted_losses"):
            compile_method(self, name, options)
        return "all encoders and losses of the step"

    def _groups(self, images: Tensor) -> tuple[Tensor, ...]:
        if len(images) < self.num_groups:
            raise ValueError(
                f"MoCoMCL: a batch of {len(images)} image(s) cannot be run in num_groups={self.num_groups} parts: set "
                "model.num_groups to less, or train_dataloader.batch_size to more."
            )
        return images.tensor_split(self.num_groups) if self.num_groups > 1 else (images,)

    @torch.no_grad()
    def compute_keys(self, images: Tensor) -> Tensor:
        """Run all key encoders, with one shuffle of the images of all processes for all of them.

        Args:
            images (Tensor): Second views in this process, (B, C, H, W); as many in each process.

        Returns:
            Tensor: Unit rows of all processes in the order of their ranks, (n, M, D).
        """
        if get_world_size() == 1 and self.num_groups == 1:  # one set of batch statistics, whatever the order
            return self.encode_keys(images)
        order = self._common_order(len(images) * get_world_size(), images.device)
        mine = order[len(images) * get_rank() : len(images) * (get_rank() + 1)]
        keys = self.encode_keys(gather_rows(images)[mine])
        return gather_rows(keys)[order.argsort()]

    @torch.no_grad()
    def encode_keys(self, images: Tensor) -> Tensor:
        """Run all key encoders on images (B, C, H, W), in this order; unit rows, (B, M, D)."""
        parts = [[encoder(part) for encoder in self.key_encoders] for part in self._groups(images)]
        return torch.cat([torch.stack(rows, dim=1) for rows in parts])

    def _common_order(self, number: int, device: torch.device) -> Tensor:
        """A random order that all processes share."""
        order = self.shuffle.permutation(number).to(device)
        broadcast(order, src=0)
        return order

    def _views(self, inputs: Any) -> tuple[Tensor, Tensor]:
        if isinstance(inputs, Tensor) or not isinstance(inputs, Sequence) or len(inputs) != 2:
            found = f"one of {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else f"{len(inputs)} view(s)"
            raise ValueError(
                f"MoCoMCL needs two views of each image, got {found}: set train_dataloader.dataset.pipeline to "
                "[..., dict(type='MultiView', num_views=2, transforms=[view_pipeline]), dict(type='PackInputs')] and "
                "train_dataloader.collate_fn=dict(type='default_collate')."
            )
        first, second = inputs
        if first.shape[:1] != second.shape[:1]:
            raise ValueError(f"MoCoMCL: the views hold {len(first)} and {len(second)} images: they must be the same.")
        return first, second

    def check_batch_size(self, images: int) -> None:
        """Refuse a number of images in a step that does not suit the model; called before training starts.

        Args:
            images (int): Images of a step in all processes.

        Raises:
            ValueError: If it does not divide the queue.
        """
        check_queue("MoCoMCL", "model.queue_len", self.criterion.queue_size, images)
