"""Networks with branches that classify image and rotation after every stage: what HSAKD and HSSAKD have in common."""

import contextlib

import torch
from torch import Tensor

from ..utils import NUM_ROTATIONS, class_logits, rotate4
from .branched_classifier import BranchedClassifier


class JointBranchClassifier(BranchedClassifier):
    """A classifier that can get branches for the joint label of class and rotation.

    The branch after stage l is a fresh copy of stages l+1 ... L; the one after the last stage is one more copy of that
    stage, with stride 1.

    Source: Yang et al., "Hierarchical Self-supervised Augmented Knowledge Distillation", IJCAI 2021, section 3.2.
    """

    def add_joint_branches(self, branch_type: str = "auto", branch_depth: str = "full") -> None:
        """Make the branches, ``self.branches``.

        Args:
            branch_type (str): See :func:`mmkdprune.models.branches.build_branches`. Defaults to ``'auto'``.
            branch_depth (str): Likewise. Defaults to ``'full'``.
        """
        number = NUM_ROTATIONS * self.num_classes
        self.add_stage_branches(number, branch_type, branch_depth, tap_last=True)

    def forward_joint(self, images: Tensor, frozen: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Run the deployable network and the branches in one pass.

        Args:
            images (Tensor): Images, (R, C, S, S).
            frozen (bool): Whether gradients stop before the branches. Defaults to False.

        Returns:
            tuple[Tensor, list[Tensor]]: Logits over the classes, (R, N), and the joint logits of the branches,
            (R, 4N) each; an empty list for a network without branches.
        """
        branches = getattr(self, "branches", ())
        with torch.no_grad() if frozen else contextlib.nullcontext():
            if not branches:
                return self.deployable_logits(images), []
            taps, _, logits = self.run_stages(images)
        return logits, [branch(tap)[0] for branch, tap in zip(branches, taps, strict=True)]

    def joint_accuracy(self, images: Tensor, target: Tensor, prefix: str = "") -> dict[str, Tensor]:
        """Score the branches on the four rotations of each image.

        Args:
            images (Tensor): Square images, (B, C, S, S). Nothing is scored on others.
            target (Tensor): Class indices, int64, (B,).
            prefix (str): Put before the names. Defaults to none.

        Returns:
            dict[str, Tensor]: For each branch l ``branch{l}/joint_top1`` (class and rotation are right) and
            ``branch{l}/class_top1`` (the class with the largest sum of its four logits is right), both over all four
            rotations: shares of an image's right answers, (B,).
        """
        if images.shape[-2] != images.shape[-1] or not getattr(self, "branches", ()):
            return {}
        rotated, labels = rotate4(images, target)
        classes = target.repeat_interleave(NUM_ROTATIONS)
        _, joint_logits = self.forward_joint(rotated)
        scores = {}
        for index, logits in enumerate(joint_logits, start=1):
            scores[f"{prefix}branch{index}/joint_top1"] = _share(logits.argmax(1) == labels)
            scores[f"{prefix}branch{index}/class_top1"] = _share(class_logits(logits).argmax(1) == classes)
        return scores


def _share(hits: Tensor) -> Tensor:
    return hits.unflatten(0, (-1, NUM_ROTATIONS)).float().mean(1)
