"""The objective of MixSKD: tensors in, named terms out."""

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmkdprune.arguments import checked
from mmkdprune.registry import MODELS

from ..utils import check_class_indices, check_temperature, is_compiling, upcast_half
from .kd_loss import kd_loss, mutual_kd_loss


@checked
def interpolate_pairs(values: Tensor, lam: float | Tensor, perm: Tensor, dim: int = 0) -> Tensor:
    """Interpolate each row with its partner: ``lam * values + (1 - lam) * values[perm]``.

    Exact at the ends: ``lam = 1`` returns the values, ``lam = 0`` the permuted values, bit for bit.

    Args:
        values (Tensor): Rows on axis ``dim``, shape (..., B, ...).
        lam (float | Tensor): Mixing coefficient in [0, 1]; a 0-dimensional tensor avoids a host synchronisation.
        perm (Tensor): Row of each partner, int64, shape (B,).
        dim (int): The axis of the rows. Defaults to 0.

    Returns:
        Tensor: Same shape and dtype as ``values``.

    Raises:
        ValueError: If the coefficient is a number outside [0, 1], or there is not one partner for each row.
    """
    if not isinstance(lam, Tensor) and not 0 <= lam <= 1:
        raise ValueError(f"interpolate_pairs: lam must be a number in [0, 1], got {lam!r}.")
    if not -values.ndim <= dim < values.ndim:
        raise ValueError(f"interpolate_pairs: dim must be an axis of values {tuple(values.shape)}, got {dim}.")
    if perm.dtype != torch.int64 or perm.shape != values.shape[dim : dim + 1 or None]:
        raise ValueError(
            f"interpolate_pairs: perm must be int64 of shape ({values.shape[dim]},), got {perm.dtype} of shape "
            f"{tuple(perm.shape)}."
        )
    if isinstance(lam, Tensor):
        lam = lam.to(values.dtype)
    return torch.lerp(_rows(values, dim, perm), values, lam)


def _rows(values: Tensor, dim: int, perm: Tensor) -> Tensor:
    if is_compiling():
        return values.index_select(dim, perm)
    try:
        return values.index_select(dim, perm)
    except IndexError as error:  # a GPU does not say so; a look at the values would wait for it
        raise ValueError(f"interpolate_pairs: perm must hold rows 0 ... {values.shape[dim] - 1}: {error}.") from error


@MODELS.register_module()
class MixSKDLoss(nn.Module):
    """Self-distillation from mixup (MixSKD).

    The network's outputs on mixed images must agree with the interpolation of its outputs on the two source images.
    Of K heads the last is the deployable one, the others are branches; the self-teacher sees all stages.

    Source: Yang et al., "MixSKD: Self-Knowledge Distillation from Mixup for Image Recognition", ECCV 2022, arXiv
    2208.05768; the terms and their gradients are those of the authors' ImageNet script, which computes all of them.

    Args:
        temperature (float): Softmax temperature of all distillation terms. Defaults to 3 (the authors' value).

    Raises:
        ValueError: If the temperature is not positive.
    """

    @checked
    def __init__(self, temperature: float = 3.0) -> None:
        super().__init__()
        self.temperature = check_temperature("MixSKDLoss", temperature)

    @checked
    def forward(
        self,
        logits: Sequence[Tensor],
        feats: Sequence[Tensor],
        teacher_lerp: Tensor | None,
        teacher_mix: Tensor | None,
        target: Tensor,
        lam: float | Tensor,
        perm: Tensor,
        disc_logits: Sequence[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Compute the unweighted terms.

        Args:
            logits (Sequence[Tensor]): One (2B, C) tensor a head, rows [:B] originals, rows [B:] mixed images; the
                last head is the deployable one.
            feats (Sequence[Tensor]): Last feature map before each head, (2B, D, h, w), rows as in ``logits``.
                An empty sequence leaves ``loss_feat`` out.
            teacher_lerp (Tensor | None): Self-teacher logits on the interpolated feature maps, (B, C).
                None (with ``teacher_mix``) leaves ``loss_teacher_ce`` and ``loss_kd_backbone`` out.
            teacher_mix (Tensor | None): Self-teacher logits on the feature maps of the mixed images, (B, C).
            target (Tensor): Classes of the originals, int64, (B,).
            lam (float | Tensor): Mixing coefficient in [0, 1], a number or a 0-dimensional tensor.
            perm (Tensor): Partner of each original, int64, (B,).
            disc_logits (Sequence[Tensor] | None): Discriminator logits of each head, (2B, 2): rows [:B] for the
                interpolated feature maps (label 0), rows [B:] for the maps of the mixed images (label 1).

        Returns:
            dict[str, Tensor]: Scalars ``loss_ce, loss_mix_ce, loss_teacher_ce, loss_kd_backbone, loss_kd_branches,
            loss_feat, loss_disc`` (the last only with ``disc_logits``).

        Raises:
            ValueError: If the numbers of heads, classes or rows do not fit together.
        """
        self._check(logits, feats, teacher_lerp, teacher_mix, target, lam, perm, disc_logits)
        num_heads = len(logits)
        heads = torch.stack([upcast_half(head) for head in logits])  # (K, 2B, C)
        originals, mixed = heads.chunk(2, dim=1)  # (K, B, C) each
        lerped = interpolate_pairs(originals, lam, perm, dim=1)
        partner = target[perm]

        def mix_ce(scores: Tensor) -> Tensor:
            log_prob = F.log_softmax(scores, dim=-1).flatten(0, -2)  # (rows, C)
            repeats = log_prob.shape[0] // target.shape[0]
            own = F.nll_loss(log_prob, target.repeat(repeats))
            other = F.nll_loss(log_prob, partner.repeat(repeats))
            return repeats * (lam * own + (1 - lam) * other)

        # Each term sums over heads the mean over rows = the number of heads times the mean over all their rows.
        losses = {
            "loss_ce": num_heads * F.cross_entropy(originals.flatten(0, 1), target.repeat(num_heads)),
            "loss_mix_ce": mix_ce(mixed),
        }
        if teacher_lerp is not None and teacher_mix is not None:
            losses["loss_teacher_ce"] = mix_ce(upcast_half(torch.stack([teacher_lerp, teacher_mix])))
            # Crossed on purpose: interpolated student logits learn from the teacher on mixed features, and vice versa.
            losses["loss_kd_backbone"] = kd_loss(lerped[-1], teacher_mix, self.temperature) + kd_loss(
                mixed[-1], teacher_lerp, self.temperature
            )
        losses["loss_kd_branches"] = (num_heads - 1) * mutual_kd_loss(
            lerped[:-1].flatten(0, 1), mixed[:-1].flatten(0, 1), self.temperature
        )
        if len(feats) > 0:
            losses["loss_feat"] = torch.stack([self._feature_distance(feat, lam, perm) for feat in feats]).sum()
        if disc_logits is not None:
            losses["loss_disc"] = torch.stack([self._discrimination(scores) for scores in disc_logits]).sum()
        return losses

    @staticmethod
    def _feature_distance(feat: Tensor, lam: float | Tensor, perm: Tensor) -> Tensor:
        originals, mixed = upcast_half(feat).chunk(2)
        return F.mse_loss(interpolate_pairs(originals, lam, perm), mixed)

    @staticmethod
    def _discrimination(scores: Tensor) -> Tensor:
        scores = upcast_half(scores).unflatten(0, (2, -1))  # (2, B, 2): which maps, which sample, which class
        label = torch.eye(2, dtype=scores.dtype, device=scores.device).unsqueeze(1).expand_as(scores)
        return F.binary_cross_entropy_with_logits(scores, label)

    @staticmethod
    def _check(logits, feats, teacher_lerp, teacher_mix, target, lam, perm, disc_logits) -> None:
        batch = target.shape[0]
        check_class_indices("MixSKDLoss", target)
        if len(logits) < 2:
            raise ValueError(f"MixSKDLoss: needs at least one branch and the deployable head, got {len(logits)} heads.")
        shapes = [tuple(head.shape) for head in logits]
        if any(shape != (2 * batch, shapes[-1][-1]) for shape in shapes):
            raise ValueError(
                f"MixSKDLoss: every head needs logits of shape (2B, C) = {(2 * batch, shapes[-1][-1])}, got {shapes}: "
                "branches and head must have the same num_classes, rows are originals followed by mixed images."
            )
        if (teacher_lerp is None) != (teacher_mix is None):
            raise ValueError("MixSKDLoss: give teacher_lerp and teacher_mix together, or neither.")
        for name, teacher in (("teacher_lerp", teacher_lerp), ("teacher_mix", teacher_mix)):
            if teacher is not None and tuple(teacher.shape) != (batch, shapes[-1][-1]):
                raise ValueError(
                    f"MixSKDLoss: {name} must have shape (B, C) = ({batch}, {shapes[-1][-1]}), got "
                    f"{tuple(teacher.shape)}."
                )
        for name, items in (("feats", feats), ("disc_logits", disc_logits or ())):
            if len(items) not in (0, len(logits)) or any(item.shape[0] != 2 * batch for item in items):
                raise ValueError(
                    f"MixSKDLoss: {name} needs one tensor of 2B = {2 * batch} rows for each of {len(logits)} heads, "
                    f"got shapes {[tuple(item.shape) for item in items]}."
                )
        if tuple(perm.shape) != (batch,):
            raise ValueError(f"MixSKDLoss: perm must have shape ({batch},), got {tuple(perm.shape)}.")
        if not isinstance(lam, Tensor) and not 0 <= lam <= 1:
            raise ValueError(f"MixSKDLoss: lam must lie in [0, 1], got {lam}.")
