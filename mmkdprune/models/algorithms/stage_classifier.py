"""Networks with a classifier after every stage: what layer-wise mutual contrastive learning contrasts."""

from torch import Tensor

from ..branches import BranchDepth
from ..utils import upcast_half
from .branched_classifier import BranchedClassifier


class StageClassifier(BranchedClassifier):
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
        self.add_stage_branches(self.num_classes, branch_type, branch_depth)

    @property
    def num_stages(self) -> int:
        """Number of stages L, each with a classifier."""
        return len(self.branches) + 1

    def forward_stages(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Run the deployable network and the branches in one pass.

        Args:
            images (Tensor): Normalised images, (N, C, H, W).

        Returns:
            tuple[list[Tensor], list[Tensor]]: Logits (N, C), in float32 or wider, and pooled features (N, D) of the L
            stages, the deployable classifier last.
        """
        taps, last_map, own_logits = self.run_stages(images)
        heads = [branch(tap) for branch, tap in zip(self.branches, taps[:-1], strict=True)]
        logits = [*(head[0] for head in heads), own_logits]
        return [upcast_half(rows) for rows in logits], [*(head[2] for head in heads), self.pool_features(last_map)]
