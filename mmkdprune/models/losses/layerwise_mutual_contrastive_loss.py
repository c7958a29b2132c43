"""The objective of L-MCL: mutual contrast of every layer of a network with every layer of another."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmkdprune.arguments import checked
from mmkdprune.registry import MODELS

from ..utils import check_embeddings
from .mutual_contrast import compare, contrast_rows, mean_over_anchors, network_pairs
from .mutual_contrastive_loss import MutualContrastiveLoss


@MODELS.register_module()
class LayerwiseMutualContrastiveLoss(MutualContrastiveLoss):
    """Mutual contrast between all layers of different networks, with a weight for each pair of layers and image.

    For each ordered pair of networks and each pair of their layers, with embeddings A and B and weights w (one an
    anchor, multiplied before the mean over anchors), the terms are ``con_w(AA) + con_w(BB)``, ``con_w(AB) +
    con_w(BA)``, and both directions of the soft terms of :class:`MutualContrastiveLoss`. Both orders of a pair count,
    as in the authors' code, whose weights of the terms were tuned with it.

    Source: Yang et al., "Online Knowledge Distillation via Mutual Contrastive Learning for Visual Recognition", TPAMI
    2023, arXiv 2207.11518; the terms are those of the authors' CIFAR code.

    Args:
        tau (float): Temperature of the similarities. Defaults to 0.1 (the authors' value for CIFAR).
        temperature (float): Further softmax temperature T of the soft terms. Defaults to 3 (the authors' value).
        soft_mask_diag (bool): See :class:`MutualContrastiveLoss`. Defaults to False.
        icl_self_positive (bool): Likewise. Defaults to False.
        gather (bool): Likewise. Defaults to False.
    """

    @checked
    def forward(  # type: ignore[override]
        self, embeddings: Sequence[Sequence[Tensor]], target: Tensor, weights: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Compute the unweighted terms.

        Args:
            embeddings (Sequence[Sequence[Tensor]]): L tensors (B, D) of unit rows of each of M >= 2 networks.
            target (Tensor): Class indices, int64, (B,).
            weights (Tensor, optional): Weight of each pair of layers and image, (M, L, M, L, B), symmetric in the two
                layers; entries of one network with itself do not count. Without it all are 1.

        Returns:
            dict[str, Tensor]: Scalars ``loss_vcl, loss_soft_vcl, loss_icl, loss_soft_icl``.

        Raises:
            ValueError: If there are fewer than two networks, they differ in number of layers, or shapes differ.
        """
        numbers = [len(layers) for layers in embeddings]
        if len(numbers) < 2 or len(set(numbers)) > 1 or not numbers[0]:
            raise ValueError(
                f"{type(self).__name__}: needs embeddings of at least two networks with as many layers each, got "
                f"{numbers} layers."
            )
        check_embeddings(type(self).__name__, [rows for layers in embeddings for rows in layers], target)
        similarities, comparison = compare(embeddings, target, self.tau, self.gather)
        rows = contrast_rows(similarities, comparison, self.temperature, **self.options)
        first, second = network_pairs(len(numbers), target.device)
        pair_weights = torch.ones_like(rows.icl) if weights is None else weights[first, :, second].to(rows.icl.dtype)
        # Both layers of a pair are anchors once; as each pair comes in both orders, that is twice one of them.
        vcl = 2 * pair_weights * rows.vcl[first].unsqueeze(2)
        soft = [2 * (pair_weights * values).mean(-1).sum() for values in (rows.soft_vcl, rows.soft_icl)]
        icl = 2 * pair_weights * rows.icl
        icl = icl.mean(-1) if self.options["icl_self_positive"] else mean_over_anchors(icl, comparison)
        return {
            "loss_vcl": mean_over_anchors(vcl, comparison).sum(),
            "loss_soft_vcl": soft[0],
            "loss_icl": icl.sum(),
            "loss_soft_icl": soft[1],
        }
