"""Weighted k-nearest-neighbour classification on frozen features."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkdprune.arguments import checked


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
    """
    ranked = scores.topk(min(max(topk), scores.shape[1]), dim=1).indices == target[:, None]
    return torch.stack([ranked[:, :number].sum() for number in topk])


@checked
def topk_accuracy(scores: Tensor, target: Tensor, number: int = 1) -> float:
    """Share of :func:`topk_hits` for one number of best classes, in percent."""
    return 100 * topk_hits(scores, target, [number]).item() / len(target)
