"""Networks with train-only branches after their stages: what the methods with branches have in common."""

from typing import Any, NamedTuple

from torch import Tensor, nn

from ..branches import BranchDepth, StageProtocol, build_branches, find_stage_protocol, pool, split_neck
from .base import DistillationClassifier


class StagedOutputs(NamedTuple):
    """What one run of the deployable network gives.

    Attributes:
        taps (list[Tensor]): The L feature maps after each stage, (N, C_l, H_l, W_l), see
            :class:`mmkdprune.models.branches.StageOutputs`.
        last_map (Tensor): The feature map that is pooled and classified, (N, D, h, w).
        logits (Tensor): The network's logits, (N, C).
    """

    taps: list[Any]
    last_map: Tensor
    logits: Tensor


class BranchedClassifier(DistillationClassifier):
    """A classifier that can get branches: fresh copies of all that follows an inner stage.

    What follows are the later stages, what the backbone does behind them, and a neck that fuses several feature maps
    (HRNet's); then pooling and a linear classifier, whatever the deployable network has in their place.

    Attributes:
        stage_protocol (StageProtocol): How the backbone splits into stages.
        branches (nn.ModuleList): The branches, the first after stage 1.
    """

    stage_protocol: StageProtocol
    branches: nn.ModuleList

    def add_stage_branches(
        self, num_classes: int, branch_type: str = "auto", branch_depth: BranchDepth = "full", tap_last: bool = False
    ) -> None:
        """Make the branches.

        Args:
            num_classes (int): Classes of each branch.
            branch_type (str): See :func:`mmkdprune.models.branches.build_branches`. Defaults to ``'auto'``.
            branch_depth (str | int | Sequence): Likewise. Defaults to ``'full'``.
            tap_last (bool): Likewise. Defaults to False.
        """
        self.stage_protocol = find_stage_protocol(self.backbone)
        self.branches = build_branches(
            self.backbone,
            self.stage_protocol,
            num_classes,
            branch_type=branch_type,
            branch_depth=branch_depth,
            tap_last=tap_last,
            fuse=split_neck(self.neck)[0],
            init_cfg=self.init_cfg,
        )

    def run_stages(self, images: Tensor) -> StagedOutputs:
        """Run the deployable network.

        Args:
            images (Tensor): Normalised images, (N, C_in, H, W).

        Returns:
            StagedOutputs: Taps, last feature map and logits.
        """
        taps, last_map, outputs = self.stage_protocol.forward(self.backbone, images)
        fuse, necks = split_neck(self.neck)
        if fuse is None:
            return StagedOutputs(taps, last_map, self.head_logits(outputs))
        feats = fuse(outputs)
        last_map = feats[-1]
        for neck in necks:
            feats = neck(feats)
        return StagedOutputs(taps, last_map, self.head(feats))

    def pool_features(self, last_map: Tensor) -> Tensor:
        """Pool the last feature map, (N, D, h, w), as the branches do; returns (N, D)."""
        fuse, _ = split_neck(self.neck)
        return pool(last_map, self.stage_protocol.final_norm(self.backbone) if fuse is None else None)

    @property
    def feature_channels(self) -> int:
        """Dimensions of the pooled features of every stage, D."""
        fuse, _ = split_neck(self.neck)
        return self.stage_protocol.out_channels(self.backbone) if fuse is None else fuse.out_channels
