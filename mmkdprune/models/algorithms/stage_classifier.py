"""Networks with a classifier after every stage: what layer-wise mutual contrastive learning contrasts."""

from torch import Tensor

from ..branches import BranchDepth, build_branches, find_stage_protocol
from ..utils import upcast_half
from .base import DistillationClassifier


class StageClassifier(DistillationClassifier):
    """A classifier that can get a branch after every stage but the last, whose classifier is the network's own.

    The branch after stage l is a fresh copy of stages l+1 ... L, so that all stages have as many pooled features.

    Source: Yang et al., "Online Knowledge Distillation via Mutual Contrastive Learning for Visual Recognition", TPAMI
    2023.
    """

    def add_branches(self, branch_type: str = "auto", branch_depth: BranchDepth = "full") -> None:
        """Make the branches, ``self.branches``.

        Args:
            branch_type (str): See :func:`mmkdprune.models.branches.build_branches`. Defaults to ``'auto'``.
            branch_depth (str | int | Sequence): Likewise. Defaults to ``'full'``.
        """
        self.stage_protocol = find_stage_protocol(self.backbone)
        self.branches = build_branches(
            self.backbone, self.stage_protocol, self.num_classes, branch_type=branch_type, branch_depth=branch_depth
        )

    @property
    def num_stages(self) -> int:
        """Number of stages L, each with a classifier."""
        return len(self.branches) + 1

    @property
    def feature_channels(self) -> int:
        """Dimensions of the pooled features of every stage, D."""
        return self.stage_protocol.out_channels(self.backbone)

    def forward_stages(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Run the deployable network and the branches in one pass.

        Args:
            images (Tensor): Normalised images, (N, C, H, W).

        Returns:
            tuple[list[Tensor], list[Tensor]]: Logits (N, C), in float32 or wider, and pooled features (N, D) of the L
            stages, the deployable classifier last.
        """
        taps, last_map, outputs = self.stage_protocol.forward(self.backbone, images)
        heads = [branch(tap) for branch, tap in zip(self.branches, taps[:-1], strict=True)]
        logits = [*(head[0] for head in heads), self.head_logits(outputs)]
        return [upcast_half(rows) for rows in logits], [*(head[2] for head in heads), last_map.mean((2, 3))]
