"""Weighted k-nearest-neighbour classification on frozen features."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkdprune.arguments import check_count, checked


@checked
def knn_scores(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    num_classes: int,
    num_neighbours: int = 20,
    temperature: float | None = 0.07,
    chunk: int = 1024,
) -> Tensor:
    """Score classes by votes of the most similar training images.

    Similarity is the cosine s; a neighbour votes for its class with exp(s / temperature). Source: Wu et al.,
    "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018, section 3.4.

    Args:
        bank (Tensor): Features of the training images, (N, D).
        bank_labels (Tensor): Their classes, int64, (N,).
        queries (Tensor): Features of the images to classify, (Q, D).
        num_classes (int): Number of classes C.
        num_neighbours (int): Neighbours that vote, k; all if there are fewer. Defaults to 20.
        temperature (float, optional): Of the votes; None counts all alike. Defaults to 0.07.
        chunk (int): Queries at a time, which bounds memory at ``chunk * N`` similarities. Defaults to 1024.

    Returns:
        Tensor: Votes divided by the largest possible vote, (Q, C).

    Raises:
        ValueError: If a number is not positive, or a label lies outside of the classes.
    """
    if num_neighbours < 1 or chunk < 1 or not (temperature is None or temperature > 0):
        raise ValueError(
            f"k-NN: num_neighbours, chunk and temperature must be positive, got {num_neighbours}, {chunk}, "
            f"{temperature}."
        )
    if len(bank_labels) and not 0 <= int(bank_labels.min()) <= int(bank_labels.max()) < num_classes:
        raise ValueError(
            f"k-NN: labels of the training images must lie in 0 ... {num_classes - 1}, found "
            f"{int(bank_labels.min())} ... {int(bank_labels.max())}."
        )
    if bank.ndim != 2 or queries.ndim != 2 or bank.shape[1] != queries.shape[1] or bank_labels.shape != (len(bank),):
        raise ValueError(
            f"k-NN: bank (N, D), bank_labels (N,) and queries (Q, D) do not go together, got {tuple(bank.shape)}, "
            f"{tuple(bank_labels.shape)} and {tuple(queries.shape)}"
        )
    bank = F.normalize(bank.float(), dim=1)
    scores = []
    for part in F.normalize(queries.float(), dim=1).split(chunk):
        similarity, nearest = (part @ bank.T).topk(min(num_neighbours, len(bank)), dim=1)
        votes = torch.ones_like(similarity) if temperature is None else ((similarity - 1) / temperature).exp()
        scores.append(votes.new_zeros(len(part), num_classes).scatter_add_(1, bank_labels[nearest], votes))
    return torch.cat(scores) if scores else bank.new_zeros(0, num_classes)


@checked
def topk_hits(scores: Tensor, target: Tensor, topk: Sequence[int] = (1,)) -> Tensor:
    """Count the images whose class is among the best ones.

    Args:
        scores (Tensor): Larger is better, (Q, C).
        target (Tensor): Class indices, int64, (Q,).
        topk (Sequence[int]): Among how many best classes. Defaults to (1,).

    Returns:
        Tensor: Right answers for each number in ``topk``, int64, (len(topk),).

    Raises:
        ValueError: If ``topk`` is empty or not of positive numbers, or there is not one class for each image.
    """
    if not len(topk):
        raise ValueError("topk must name at least one number, got ()")
    for number in topk:
        check_count("topk", number, 1)
    if scores.ndim != 2 or target.shape != scores.shape[:1]:
        raise ValueError(f"scores (Q, C) need target (Q,), got {tuple(scores.shape)} and {tuple(target.shape)}")
    ranked = scores.topk(min(max(topk), scores.shape[1]), dim=1).indices == target[:, None]
    return torch.stack([ranked[:, :number].sum() for number in topk])


@checked
def topk_accuracy(scores: Tensor, target: Tensor, number: int = 1) -> float:
    """Share of :func:`topk_hits` for one number of best classes, in percent."""
    check_count("number", number, 1)
    return 100 * topk_hits(scores, target, [number]).item() / max(1, len(target))
