"""How alike the representations of several networks are."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

MEASURES = ("cka", "cosine")


def linear_cka(first: Tensor, second: Tensor) -> float:
    """Linear centred kernel alignment of two sets of features of the same images.

    1 if one is a rotation and scaling of the other, 0 if no linear function of one says anything of the other. The
    numbers of features may differ. Source: Kornblith et al., "Similarity of Neural Network Representations Revisited",
    ICML 2019, section 3.

    Args:
        first (Tensor): (N, D1).
        second (Tensor): (N, D2).

    Returns:
        float: From 0 to 1; NaN where a set of features is constant.

    Raises:
        ValueError: If they are not of the same images.
    """
    if len(first) != len(second):
        raise ValueError(f"similarity: both must be features of the same images, got {len(first)} and {len(second)}.")
    first, second = (features.double() - features.double().mean(0) for features in (first, second))
    if min(first.shape[1], second.shape[1]) > len(first):  # Gram matrices are smaller
        first, second = first @ first.T, second @ second.T
        return float((first * second).sum() / (first.norm() * second.norm()))
    cross = (first.T @ second).square().sum()
    return float(cross / ((first.T @ first).norm() * (second.T @ second).norm()))


def mean_cosine(first: Tensor, second: Tensor) -> float:
    """Mean cosine similarity between two networks' centred features of the same image.

    It compares coordinate by coordinate, which means something only for networks whose features are meant to agree.

    Args:
        first (Tensor): (N, D).
        second (Tensor): (N, D).

    Returns:
        float: From -1 to 1.

    Raises:
        ValueError: If the shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"similarity: measure='cosine' needs features of one shape, got {tuple(first.shape)} and "
            f"{tuple(second.shape)}: use 'cka'."
        )
    first, second = (features.double() - features.double().mean(0) for features in (first, second))
    return float(F.cosine_similarity(first, second, dim=1).mean())


def similarity_matrix(features: Sequence[Tensor] | Mapping[str, Tensor], measure: str = "cka") -> Tensor:
    """Similarity of every pair.

    Args:
        features (Sequence[Tensor] | Mapping[str, Tensor]): M sets of features of the same images, (N, D_m).
        measure (str): ``'cka'`` or ``'cosine'``. Defaults to ``'cka'``.

    Returns:
        Tensor: Symmetric, (M, M).

    Raises:
        ValueError: If the measure is unknown or does not suit the features.
    """
    if measure not in MEASURES:
        raise ValueError(f"similarity: measure must be one of {MEASURES}, got {measure!r}.")
    compare = linear_cka if measure == "cka" else mean_cosine
    sets = list(features.values()) if isinstance(features, Mapping) else list(features)
    matrix = torch.zeros(len(sets), len(sets), dtype=torch.float64)
    for row, first in enumerate(sets):
        for column in range(row, len(sets)):
            matrix[row, column] = matrix[column, row] = compare(first, sets[column])
    return matrix
