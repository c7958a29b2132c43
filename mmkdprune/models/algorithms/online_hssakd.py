"""Online HSSAKD: networks that train together and teach each other, stage by stage."""

from collections.abc import Iterator, Sequence
from typing import Any

from mmpretrain.models.necks import GlobalAveragePooling
from torch import Tensor, nn

from mmkdprune.registry import MODELS
from mmkdprune.utils.random import isolated_random_state

from ..utils import peer_configs, rotate4
from .joint_branches import JointBranchClassifier
from .teacher import describe_network


@MODELS.register_module()
class OnlineHSSAKD(JointBranchClassifier):
    """Train two or more networks together, each with branches for class and rotation that teach each other.

    The deployable network is peer 0, with the keys of the plain twin; the others are under ``peers.1``, ``peers.2``,
    ... and ``tools/export_backbone.py --peer 1`` exports one of them. A step is one forward pass of the four rotations
    of each image through each network.

    Source: Yang et al., "Knowledge Distillation Using Hierarchical Self-Supervision Augmented Distribution", TNNLS
    2022, arXiv 2109.03075 (online distillation).

    Args:
        backbone (dict): Backbone of peer 0 with at least two stages of feature maps.
        neck (dict, optional): Neck of peer 0.
        head (dict): Head of peer 0 with plain cross-entropy.
        num_peers (int, optional): Number of networks in total, all like peer 0 but for their initial weights. Defaults
            to 2, as in the paper.
        peers (list[dict], optional): The networks other than peer 0, ``dict(backbone=..., neck=..., head=...)``; a
            field that is left out is that of peer 0. All networks need the same number of stages and classes.
        loss (dict): Objective. Defaults to ``dict(type='mmkdprune.OnlineHSSAKDLoss', temperature=3.)``.
        loss_weights (dict[str, float], optional): Weights of ``loss_ce, loss_joint_ce, loss_kd, loss_joint_kd``, 1 each
            by default. All 0: the plain training step of peer 0 alone.
        branch_type (str): ``'auto'``, ``'stage_copy'`` or ``'conv'``, see
            :func:`mmkdprune.models.branches.build_branches`. Defaults to ``'auto'``.
        branch_depth (str): ``'full'`` or ``'light'`` (one block a copied stage). Defaults to ``'full'``.
        evaluate_branches (bool): Log ``branch{l}/joint_top1`` and ``branch{l}/class_top1`` of every network at
            validation, besides ``peer{n}/top1``. Defaults to True.
        **kwargs: Further arguments of MMPretrain's ``ImageClassifier``.

    Raises:
        ValueError: If there are fewer than two networks, they differ in number of stages or classes, an option is
            unknown, or the config asks for batch augments, soft targets or a loss other than plain cross-entropy.
    """

    loss_names = ("loss_ce", "loss_joint_ce", "loss_kd", "loss_joint_kd")

    def __init__(
        self,
        backbone: dict,
        neck: dict | None = None,
        head: dict | None = None,
        num_peers: int | None = None,
        peers: Sequence[dict] | None = None,
        loss: dict | None = None,
        loss_weights: dict[str, float] | None = None,
        branch_type: str = "auto",
        branch_depth: str = "full",
        evaluate_branches: bool = True,
        **kwargs: Any,
    ) -> None:
        configs = peer_configs({"backbone": backbone, "neck": neck, "head": head}, num_peers, peers)
        super().__init__(backbone, neck=neck, head=head, loss_weights=loss_weights, **kwargs)
        if self.is_plain:
            return
        self.evaluate_branches = evaluate_branches
        self.criterion = MODELS.build({"type": "mmkdprune.OnlineHSSAKDLoss", **(loss or {})})
        # Random draws of the other networks stay apart, so that a seed gives peer 0 the plain twin's initial weights.
        self.peers = nn.ModuleDict()
        for index, config in enumerate(configs[1:], start=1):
            with isolated_random_state(f"online_hssakd.peer{index}"):
                self.peers[str(index)] = JointBranchClassifier(**config)
        if self.loss_weights["loss_joint_ce"] > 0 or self.loss_weights["loss_joint_kd"] > 0:
            for index, network in enumerate(self.networks()):
                with isolated_random_state(f"online_hssakd.peer{index}.branches"):
                    network.add_joint_branches(branch_type, branch_depth)
        self._compare_networks()

    def networks(self) -> Iterator[JointBranchClassifier]:
        """Iterate over all networks, peer 0 (this model itself) first."""
        yield self
        yield from self.peers.values()  # type: ignore[misc]

    def init_weights(self) -> None:
        """Initialise the weights of all networks."""
        super().init_weights()
        if self.is_plain:
            return
        for index, peer in self.peers.items():
            with isolated_random_state(f"online_hssakd.peer{index}.weights"):
                peer.init_weights()  # type: ignore[operator]

    def distillation_loss(self, inputs: Tensor, target: Tensor, *draws: Tensor) -> dict[str, Tensor]:
        """Compute the unweighted terms; see :class:`mmkdprune.models.losses.OnlineHSSAKDLoss`."""
        images = rotate4(inputs)
        logits, joint_logits = zip(*(network.forward_joint(images) for network in self.networks()), strict=True)
        return self.criterion(logits, joint_logits, target)

    def train_only_accuracy(self, inputs: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Score the other networks, and the branches of all, on validation images."""
        if self.is_plain:
            return {}
        scores = {}
        for index, network in enumerate(self.networks()):
            prefix = f"peer{index}/" if index else ""
            if index:
                scores[f"{prefix}top1"] = (network.deployable_logits(inputs).argmax(1) == target).float()
            if self.evaluate_branches:
                scores |= network.joint_accuracy(inputs, target, prefix)
        return scores

    def _compare_networks(self) -> None:
        for index, network in enumerate(self.networks()):
            if index:
                network.refuse_clashes()
                _check_head(index, network)
            for what, theirs, ours in (
                ("classes", network.num_classes, self.num_classes),
                ("stages", len(getattr(network, "branches", ())), len(getattr(self, "branches", ()))),
            ):
                if theirs != ours:
                    raise ValueError(
                        f"OnlineHSSAKD: peer 0 ({describe_network(self)}) has {ours} {what} and peer {index} "
                        f"({describe_network(network)}) {theirs}: networks teach each other class by class and stage "
                        "by stage, so all need the same numbers."
                    )


def _check_head(index: int, network: JointBranchClassifier) -> None:
    """A peer's backbone may be another one while its head was left to be that of peer 0."""
    wanted = getattr(network.head, "in_channels", None)
    if wanted is None or not hasattr(network, "stage_protocol"):
        return
    given = network.stage_protocol.out_channels(network.backbone)
    if isinstance(network.neck, GlobalAveragePooling) and wanted != given:
        raise ValueError(
            f"OnlineHSSAKD: the backbone of peer {index} ({describe_network(network)}) gives {given} channels and its "
            f"head takes {wanted}: set head=dict(..., in_channels={given}) in peers[{index - 1}]."
        )
