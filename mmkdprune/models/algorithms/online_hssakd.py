"""Online HSSAKD: networks that train together and teach each other, stage by stage."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mmkdprune.arguments import checked
from mmkdprune.randomness import isolated_random_state
from mmkdprune.registry import MODELS

from ..utils import peer_configs, rotate4
from .cohort import CohortClassifier
from .joint_branches import JointBranchClassifier


@MODELS.register_module()
class OnlineHSSAKD(CohortClassifier, JointBranchClassifier):
    """Train two or more networks together, each with branches for class and rotation that teach each other.

    The deployable network is peer 0, with the keys of the plain twin; the others are under ``peers.1``, ``peers.2``,
    ... and ``mmkdprune export --peer 1`` exports one of them. A step is one forward pass of the four rotations
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
    random_name = "online_hssakd"
    peer_class = JointBranchClassifier

    @checked
    def __init__(
        self,
        backbone: dict,
        neck: dict | list[dict] | None = None,
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
        self.build_peers(configs)
        if self.loss_weights["loss_joint_ce"] > 0 or self.loss_weights["loss_joint_kd"] > 0:
            for index, network in enumerate(self.networks()):
                with isolated_random_state(f"{self.random_name}.peer{index}.branches"):
                    network.add_joint_branches(branch_type, branch_depth)
        self.require_equal("stages", [len(getattr(network, "branches", ())) for network in self.networks()])

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
