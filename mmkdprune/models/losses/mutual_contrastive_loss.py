"""The objective of MCL within a batch: embeddings in, named terms out."""

from collections.abc import Sequence

import torch.nn as nn
from torch import Tensor

from mmkdprune.arguments import checked
from mmkdprune.registry import MODELS

from ..utils import check_embeddings, check_temperature, is_number
from .mutual_contrast import compare, contrast_rows, mean_over_anchors


@MODELS.register_module()
class MutualContrastiveLoss(nn.Module):
    """Contrast the images of a batch within each of M networks and between them, and let both be learnt mutually.

    With ``S_ij = V_i V_j^T / tau`` and P(a) the other images of anchor a's class,

    - ``loss_vcl``: the sum over networks of ``con(S_ii)``,
    - ``loss_icl``: the sum over ordered pairs of ``con(S_ij)``,
    - ``loss_soft_vcl``: the sum over ordered pairs of ``KD_T(S_ii, S_jj)``,
    - ``loss_soft_icl``: the sum over ordered pairs of ``KD_T(S_ij, S_ji)``,

    where ``con`` is the mean over anchors a, and over p in P(a), of the negative log-softmax of S[a, p] over all images
    other than a, and ``KD_T(s, t) = T^2 KL(t || s)`` acts on whole rows with the teacher t detached. Anchors without
    another image of their class are left out of ``con``. Logarithms of sums are computed in float32 or wider.

    Source: Yang et al., "Mutual Contrastive Learning for Visual Representation Learning", AAAI 2022, arXiv 2104.12565
    (supervised form); the terms are those of the authors' CIFAR code.

    Args:
        tau (float): Temperature of the similarities. Defaults to 0.1 (the authors' value for CIFAR).
        temperature (float): Further softmax temperature T of the soft terms. Defaults to 3 (the authors' value).
        soft_mask_diag (bool): Leave the anchor's own image out of the soft terms, too; within a network it is a
            constant 1 / tau that damps them. Defaults to False, as in the authors' code.
        icl_self_positive (bool): Between networks, count the other network's embedding of the anchor's own image as a
            positive, as the form with memory banks does. Defaults to False: that pair is left out.
        gather (bool): Compare the anchors of each process with the images of all of them, with gradients to both; all
            processes need batches of the same size. Defaults to False.

    Raises:
        ValueError: If a temperature is not positive.
    """

    @checked
    def __init__(
        self,
        tau: float = 0.1,
        temperature: float = 3.0,
        soft_mask_diag: bool = False,
        icl_self_positive: bool = False,
        gather: bool = False,
    ) -> None:
        super().__init__()
        self.tau = check_tau(type(self).__name__, tau)
        self.temperature = check_temperature(type(self).__name__, temperature)
        self.options = {"soft_mask_diag": soft_mask_diag, "icl_self_positive": icl_self_positive}
        self.gather = gather

    @checked
    def forward(self, embeddings: Sequence[Tensor], target: Tensor) -> dict[str, Tensor]:
        """Compute the unweighted terms.

        Args:
            embeddings (Sequence[Tensor]): One (B, D) tensor of unit rows a network, B >= 2.
            target (Tensor): Class indices, int64, (B,).

        Returns:
            dict[str, Tensor]: Scalars ``loss_vcl, loss_soft_vcl, loss_icl, loss_soft_icl``; one network has the first
            only.

        Raises:
            ValueError: If shapes differ, or there are not as many labels as rows.
        """
        check_embeddings(type(self).__name__, embeddings, target)
        similarities, comparison = compare([[rows] for rows in embeddings], target, self.tau, self.gather)
        rows = contrast_rows(similarities, comparison, self.temperature, **self.options)
        losses = {"loss_vcl": mean_over_anchors(rows.vcl, comparison).sum()}
        if len(embeddings) > 1:
            icl = rows.icl.mean(-1) if self.options["icl_self_positive"] else mean_over_anchors(rows.icl, comparison)
            losses["loss_soft_vcl"] = rows.soft_vcl.mean(-1).sum()
            losses["loss_icl"] = icl.sum()
            losses["loss_soft_icl"] = rows.soft_icl.mean(-1).sum()
        return losses


def check_tau(owner: str, tau: float) -> float:
    """Return a temperature of similarities that is a positive number, or raise a ``ValueError``."""
    if not (is_number(tau) and tau > 0):
        raise ValueError(f"{owner}: tau must be a positive number, got {tau!r}.")
    return float(tau)
