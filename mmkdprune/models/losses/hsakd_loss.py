"""The objectives of HSAKD and HSSAKD: tensors in, named terms out.

Rows come in groups of four: row 4 * i + k belongs to image i rotated k times by 90 degrees, see
:func:`mmkdprune.models.utils.rotate4`. Logits over classes are (4B, N), joint logits over class and rotation (4B, 4N).
"""

import itertools
from collections.abc import Iterable, Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmkdprune.arguments import checked
from mmkdprune.registry import MODELS

from ..utils import NUM_ROTATIONS, check_target, check_temperature, joint_target, upcast_half
from .kd_loss import kd_loss, mutual_kd_loss


@MODELS.register_module()
class HSAKDTeacherLoss(nn.Module):
    """Train a network that classifies images, and branches that classify image and rotation.

    Source: Yang et al., "Hierarchical Self-supervised Augmented Knowledge Distillation", IJCAI 2021, arXiv 2107.13715
    (loss of the teacher). The classifier is never asked to classify rotated images.
    """

    @checked
    def forward(self, logits: Tensor, joint_logits: Sequence[Tensor], target: Tensor) -> dict[str, Tensor]:
        """Compute the unweighted terms.

        Args:
            logits (Tensor): Logits over the classes, (4B, N); only rows 0, 4, 8, ... (not rotated) count.
            joint_logits (Sequence[Tensor]): One (4B, 4N) tensor a branch. An empty sequence leaves ``loss_joint_ce``
                out.
            target (Tensor): Class indices, int64, (B,).

        Returns:
            dict[str, Tensor]: Scalars ``loss_ce`` and ``loss_joint_ce`` (the sum over branches).

        Raises:
            ValueError: If the shapes do not fit together or a label lies outside 0 ... N-1.
        """
        _check("HSAKDTeacherLoss", logits, joint_logits, target)
        losses = {"loss_ce": _upright_ce(logits, target)}
        if len(joint_logits) > 0:
            losses["loss_joint_ce"] = _joint_ce(joint_logits, target)
        return losses


@MODELS.register_module()
class HSAKDStudentLoss(nn.Module):
    """Learn from a teacher's class distributions and, branch by branch, from its joint distributions.

    The student has no cross-entropy on joint labels.

    Source: Yang et al., "Hierarchical Self-supervised Augmented Knowledge Distillation", IJCAI 2021, arXiv 2107.13715
    (L_task, L_kl_p and L_kl_q of the student).

    Args:
        temperature (float): Softmax temperature of both distillation terms. Defaults to 3 (the paper's value).

    Raises:
        ValueError: If the temperature is not positive.
    """

    @checked
    def __init__(self, temperature: float = 3.0) -> None:
        super().__init__()
        self.temperature = check_temperature("HSAKDStudentLoss", temperature)

    @checked
    def forward(
        self,
        logits: Tensor,
        joint_logits: Sequence[Tensor],
        teacher_logits: Tensor,
        teacher_joint_logits: Sequence[Tensor],
        target: Tensor,
    ) -> dict[str, Tensor]:
        """Compute the unweighted terms.

        Args:
            logits (Tensor): Student's logits over the classes, (4B, N).
            joint_logits (Sequence[Tensor]): Student's joint logits, one (4B, 4N) tensor a branch. Empty sequences
                leave ``loss_joint_kd`` out.
            teacher_logits (Tensor): Teacher's logits over the classes, (4B, N). Detached here.
            teacher_joint_logits (Sequence[Tensor]): Teacher's joint logits, as many as the student's. Detached here.
            target (Tensor): Class indices, int64, (B,).

        Returns:
            dict[str, Tensor]: Scalars ``loss_ce`` (rows that are not rotated), ``loss_kd`` (all rows) and
            ``loss_joint_kd`` (all rows, the sum over branches).

        Raises:
            ValueError: If the shapes do not fit together, the numbers of branches differ, or a label lies outside
                0 ... N-1.
        """
        _check("HSAKDStudentLoss", logits, joint_logits, target)
        if len(joint_logits) != len(teacher_joint_logits):
            raise ValueError(
                f"HSAKDStudentLoss: the student has {len(joint_logits)} branches and the teacher "
                f"{len(teacher_joint_logits)}: each branch learns from the teacher's branch at the same stage, so both "
                "networks need the same number of stages."
            )
        losses = {
            "loss_ce": _upright_ce(logits, target),
            "loss_kd": kd_loss(logits, teacher_logits, self.temperature),
        }
        if len(joint_logits) > 0:
            rows = torch.cat(list(joint_logits)), torch.cat(list(teacher_joint_logits))
            losses["loss_joint_kd"] = len(joint_logits) * kd_loss(*rows, self.temperature)
        return losses


@MODELS.register_module()
class OnlineHSSAKDLoss(nn.Module):
    """Let networks that train together teach each other: class distributions, and joint ones branch by branch.

    Source: Yang et al., "Knowledge Distillation Using Hierarchical Self-Supervision Augmented Distribution", TNNLS
    2022, arXiv 2109.03075 (online distillation); the terms are those of the authors' code for two networks, and over
    all ordered pairs for more.

    Args:
        temperature (float): Softmax temperature of both distillation terms. Defaults to 3 (the authors' value).
        average_teachers (bool): Divide the distillation terms by M - 1, the number of networks that teach each of M.
            Makes no difference for two. Defaults to False.

    Raises:
        ValueError: If the temperature is not positive.
    """

    @checked
    def __init__(self, temperature: float = 3.0, average_teachers: bool = False) -> None:
        super().__init__()
        self.temperature = check_temperature("OnlineHSSAKDLoss", temperature)
        self.average_teachers = average_teachers

    @checked
    def forward(
        self, logits: Sequence[Tensor], joint_logits: Sequence[Sequence[Tensor]], target: Tensor
    ) -> dict[str, Tensor]:
        """Compute the unweighted terms.

        Args:
            logits (Sequence[Tensor]): Logits over the classes of each of M networks, (4B, N).
            joint_logits (Sequence[Sequence[Tensor]]): For each network one (4B, 4N) tensor a branch, as many for all.
                Empty inner sequences leave ``loss_joint_ce`` and ``loss_joint_kd`` out.
            target (Tensor): Class indices, int64, (B,).

        Returns:
            dict[str, Tensor]: Scalars ``loss_ce`` (rows that are not rotated), ``loss_joint_ce``, ``loss_kd`` and
            ``loss_joint_kd`` (all rows), sums over networks, branches and ordered pairs of networks. In each
            distillation term only the network that learns gets a gradient.

        Raises:
            ValueError: If there are fewer than two networks, shapes do not fit together, numbers of branches differ, or
                a label lies outside 0 ... N-1.
        """
        if len(logits) < 2 or len(joint_logits) != len(logits):
            raise ValueError(
                "OnlineHSSAKDLoss: needs logits and joint_logits of at least two networks, got "
                f"{len(logits)} and {len(joint_logits)}."
            )
        numbers = [len(branches) for branches in joint_logits]
        if len(set(numbers)) > 1:
            raise ValueError(
                f"OnlineHSSAKDLoss: the networks have {numbers} branches: branches teach those at the same stage of "
                "the other networks, so all networks need the same number of stages."
            )
        for own, branches in zip(logits, joint_logits, strict=True):
            _check("OnlineHSSAKDLoss", own, branches, target)
        pairs = list(itertools.combinations(range(len(logits)), 2))
        share = 1 / (len(logits) - 1) if self.average_teachers else 1.0
        losses = {"loss_ce": _total(_upright_ce(own, target) for own in logits)}
        if numbers[0] > 0:
            losses["loss_joint_ce"] = _total(_joint_ce(branches, target) for branches in joint_logits)
        losses["loss_kd"] = share * _total(mutual_kd_loss(logits[a], logits[b], self.temperature) for a, b in pairs)
        if numbers[0] > 0:
            rows = [torch.cat(list(branches)) for branches in joint_logits]
            losses["loss_joint_kd"] = (share * numbers[0]) * _total(
                mutual_kd_loss(rows[a], rows[b], self.temperature) for a, b in pairs
            )
        return losses


def _total(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()


def _upright_ce(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(upcast_half(logits[::NUM_ROTATIONS]), target)


def _joint_ce(joint_logits: Sequence[Tensor], target: Tensor) -> Tensor:
    # The sum over branches of a mean over rows is the number of branches times the mean over all their rows.
    rows = upcast_half(torch.cat(list(joint_logits)))
    return len(joint_logits) * F.cross_entropy(rows, joint_target(target).repeat(len(joint_logits)))


def _check(owner: str, logits: Tensor, joint_logits: Sequence[Tensor], target: Tensor) -> None:
    rows = NUM_ROTATIONS * target.shape[0]
    if logits.ndim != 2 or logits.shape[0] != rows:
        raise ValueError(
            f"{owner}: logits must have shape (4B, N) with 4B = {rows} rows for {target.shape[0]} labels, four "
            f"rotations of each image, got {tuple(logits.shape)}."
        )
    num_classes = logits.shape[1]
    expected = (rows, NUM_ROTATIONS * num_classes)
    if any(tuple(branch.shape) != expected for branch in joint_logits):
        raise ValueError(
            f"{owner}: every branch needs joint logits of shape (4B, 4N) = {expected}, got "
            f"{[tuple(branch.shape) for branch in joint_logits]}: four rotations of each of {num_classes} classes."
        )
    check_target(owner, target, num_classes)
