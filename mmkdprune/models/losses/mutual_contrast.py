"""What the mutual contrastive objectives have in common: similarities, and the terms row by row.

M networks give L embeddings each (L = 1 but for layer-wise contrast) of B anchors, which are compared with N keys. All
similarities come from one product of stacked embeddings, (M, L, M, L, B, N). Each of the P = M (M - 1) ordered pairs of
networks appears once in what is called "pairs".
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.dist import get_rank
from torch import Tensor

from ..utils import gather_rows, upcast_half, without_autocast


class Comparison(NamedTuple):
    """Which keys an anchor is compared with.

    Attributes:
        own (Tensor): The key that is the anchor's own image, bool, (B, N).
        positives (Tensor): Keys of the anchor's class other than its own image, bool, (B, N).
    """

    own: Tensor
    positives: Tensor


class ContrastRows(NamedTuple):
    """The terms of each anchor, before any weight, mean or sum.

    Attributes:
        vcl (Tensor): Contrast within a network, (M, L, B).
        icl (Tensor): Contrast of anchors of a pair's first network with keys of its second, (P, L, L, B).
        soft_vcl (Tensor): The first network learns the second one's distribution within itself, (P, L, L, B).
        soft_icl (Tensor): The pair's distribution learns the one with the roles exchanged, (P, L, L, B).
    """

    vcl: Tensor
    icl: Tensor
    soft_vcl: Tensor
    soft_icl: Tensor


def compare(
    embeddings: Sequence[Sequence[Tensor]], target: Tensor, tau: float, gather: bool = False
) -> tuple[Tensor, Comparison]:
    """Compare all embeddings of a batch with each other.

    Args:
        embeddings (Sequence[Sequence[Tensor]]): L unit embeddings (B, D) of each of M networks.
        target (Tensor): Class indices, int64, (B,).
        tau (float): Similarities are divided by it.
        gather (bool): Whether the keys are those of all processes, W * B of them. Defaults to False, N = B.

    Returns:
        tuple[Tensor, Comparison]: Similarities, (M, L, M, L, B, N), in float32 or wider, and which keys are which.

    Raises:
        ValueError: If there is a single key, so nothing to compare with.
    """
    networks, layers = len(embeddings), len(embeddings[0])
    anchors = torch.stack([upcast_half(rows) for network in embeddings for rows in network])  # (M * L, B, D)
    rows, offset, labels = anchors.transpose(0, 1), 0, target  # (B, M * L, D)
    if gather:
        rows, labels = gather_rows(rows), gather_rows(target)
        offset = get_rank() * len(target)
    if len(labels) < 2:
        raise ValueError(
            "mutual contrast compares each image with the others of its batch, but this batch holds 1 image: set "
            "train_dataloader.batch_size to 2 or more, best with batch_sampler=dict(type="
            "'mmkdprune.ClassPairBatchSampler')."
        )
    keys = rows.transpose(0, 1)  # (M * L, N, D)
    with without_autocast(anchors):
        product = anchors.flatten(0, 1) @ keys.flatten(0, 1).T / tau  # (M * L * B, M * L * N)
    product = product.view(networks, layers, len(target), networks, layers, len(labels))
    positions = torch.arange(len(target), device=target.device) + offset
    own = positions[:, None] == torch.arange(len(labels), device=target.device)
    same = target[:, None] == labels
    return product.permute(0, 1, 3, 4, 2, 5), Comparison(own, same & ~own)


def contrast_rows(
    similarities: Tensor,
    comparison: Comparison,
    temperature: float,
    soft_mask_diag: bool = False,
    icl_self_positive: bool = False,
) -> ContrastRows:
    """Compute the four terms of every anchor.

    Args:
        similarities (Tensor): From :func:`compare`, (M, L, M, L, B, N).
        comparison (Comparison): Likewise.
        temperature (float): Further temperature of the soft terms.
        soft_mask_diag (bool): Leave the anchor's own image out of the soft terms. Defaults to False.
        icl_self_positive (bool): Count the other network's embedding of the anchor's own image as a positive. Defaults
            to False: it is left out.

    Returns:
        ContrastRows: The terms.
    """
    own, positives = comparison
    within = _diagonal(similarities)  # (M, L, B, N)
    vcl = _contrast(within, positives, ~own)
    if len(similarities) == 1:
        none = vcl.new_zeros(0, vcl.shape[1], vcl.shape[1], vcl.shape[2])
        return ContrastRows(vcl, none, none, none)
    first, second = network_pairs(len(similarities), similarities.device)
    across = similarities[first, :, second]  # (P, L, L, B, N)
    returned = similarities[second, :, first].transpose(1, 2)  # the same pair of layers, roles exchanged
    if icl_self_positive:
        icl = _contrast(across, positives | own, None)
    else:
        icl = _contrast(across, positives, ~own)
    kept = _others(own) if soft_mask_diag else None
    log_within = _log_distribution(within, temperature, kept)
    log_across, log_returned = (_log_distribution(rows, temperature, kept) for rows in (across, returned))
    soft_vcl = _divergence(log_within[first].unsqueeze(2), log_within[second].unsqueeze(1))
    soft_icl = _divergence(log_across, log_returned)
    return ContrastRows(vcl, icl, temperature**2 * soft_vcl, temperature**2 * soft_icl)


def mean_over_anchors(rows: Tensor, comparison: Comparison) -> Tensor:
    """Average contrast over the anchors that have a positive; 0 where none has.

    Args:
        rows (Tensor): Contrast, (..., B), 0 for anchors without a positive.
        comparison (Comparison): From :func:`compare`.

    Returns:
        Tensor: (...).
    """
    return rows.sum(-1) / comparison.positives.any(1).sum().clamp(min=1)


def network_pairs(networks: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """List the ordered pairs of different networks, as two int64 tensors (P,), without the host waiting.

    Args:
        networks (int): Number of networks M.
        device (torch.device | str): Where. Defaults to the CPU.

    Returns:
        tuple[Tensor, Tensor]: First and second network of each of M (M - 1) pairs.
    """
    first = torch.arange(networks, device=device).repeat_interleave(networks - 1)
    second = torch.arange(networks - 1, device=device).repeat(networks)
    return first, second + (second >= first)


def _diagonal(similarities: Tensor) -> Tensor:
    """(M, L, M, L, B, N) -> (M, L, B, N): each embedding with itself."""
    same_network = similarities.diagonal(dim1=0, dim2=2)  # (L, L, B, N, M)
    return same_network.diagonal(dim1=0, dim2=1).permute(2, 3, 0, 1)


def _contrast(similarities: Tensor, positives: Tensor, candidates: Tensor | None) -> Tensor:
    """Mean over positives of -log(exp(positive) / sum over candidates), (..., B); 0 for anchors without a positive."""
    number = positives.sum(1)  # (B,)
    attraction = (similarities * positives).sum(-1) / number.clamp(min=1)
    if candidates is not None:
        similarities = similarities.masked_fill(~candidates, float("-inf"))
    return torch.where(number > 0, similarities.logsumexp(-1) - attraction, 0.0)


def _others(own: Tensor) -> Tensor:
    """Indices of the keys that are not the anchor's own, (B, N - 1)."""
    position = own.int().argmax(1, keepdim=True)
    index = torch.arange(own.shape[1] - 1, device=own.device)
    return index + (index >= position)


def _log_distribution(similarities: Tensor, temperature: float, kept: Tensor | None) -> Tensor:
    if kept is not None:
        similarities = similarities.gather(-1, kept.expand(*similarities.shape[:-2], *kept.shape))
    return F.log_softmax(similarities / temperature, dim=-1)


def _divergence(log_student: Tensor, log_teacher: Tensor) -> Tensor:
    """KL(teacher || student) of each row; the teacher is detached."""
    log_student, log_teacher = torch.broadcast_tensors(log_student, log_teacher.detach())
    return F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(-1)
