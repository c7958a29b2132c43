"""Few-shot classification on frozen features: nearest class mean and logistic regression, vectorised over episodes."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmkdprune.arguments import check_count, check_number, checked

from .episodes import EpisodeSampler, EpisodeShape
from .logistic_regression import fit_logistic_regression

CLASSIFIERS = ("nearest_mean", "logistic_regression")
TRANSFORMS = ("none", "l2", "centred_l2")
_CHUNK_VALUES = 2**22  # gathered features at a time: they stay in the cache of a processor


@checked
@dataclass(frozen=True)
class FewShotResult:
    """Accuracy over episodes.

    Attributes:
        shape: Size of the episodes.
        classifier: ``nearest_mean`` or ``logistic_regression``.
        transform: What was done to the features.
        num_episodes: How many episodes.
        accuracy: Mean accuracy in percent.
        interval: Half the width of its 95 % confidence interval, in percent points.
        unconverged: Episodes whose logistic regression did not meet its tolerance.
    """

    shape: EpisodeShape
    classifier: str
    transform: str
    num_episodes: int
    accuracy: float
    interval: float
    unconverged: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain types."""
        values = asdict(self)
        return {**values.pop("shape"), **values}


@checked
def confidence_interval(accuracies: np.ndarray) -> tuple[float, float]:
    """Mean and half the width of its 95 % confidence interval: 1.96 standard errors.

    Args:
        accuracies (np.ndarray): One an episode, (E,).

    Returns:
        tuple[float, float]: Both in the unit of the accuracies; the second is NaN for a single episode.
    """
    values = np.asarray(accuracies, np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"accuracies must be one number per episode, (E,), got shape {values.shape}")
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean()), 1.96 * float(error)


def transform_features(features: Tensor, transform: str, mean: Tensor | None = None) -> Tensor:
    """Normalise features before they are compared.

    Args:
        features (Tensor): (N, D).
        transform (str): ``'none'``; ``'l2'``, each of length 1; ``'centred_l2'``, the same after ``mean`` is subtracted
            (Wang et al., "SimpleShot", 2019).
        mean (Tensor, optional): Mean feature of the *training* classes, (D,).

    Returns:
        Tensor: float32, (N, D).

    Raises:
        ValueError: If the transform is unknown, or has no mean to subtract.
    """
    if transform not in TRANSFORMS:
        raise ValueError(f"few-shot: transform must be one of {TRANSFORMS}, got {transform!r}.")
    features = features.float()
    if transform == "none":
        return features
    if transform == "centred_l2":
        if mean is None:
            raise ValueError("few-shot: transform='centred_l2' needs the mean feature of the training classes (mean).")
        features = features - mean.to(features)
    return F.normalize(features, dim=-1)


def nearest_mean_logits(support: Tensor, query: Tensor) -> Tensor:
    """Score queries by their squared distance to the mean of each class.

    Args:
        support (Tensor): (E, W, K, D).
        query (Tensor): (E, Q, D).

    Returns:
        Tensor: Larger is nearer, (E, Q, W).
    """
    means = support.mean(2)
    # |q - m|^2 without |q|^2, which is the same for all classes
    return 2 * query @ means.transpose(1, 2) - means.square().sum(-1)[:, None]


@checked
def evaluate_few_shot(
    features: Tensor,
    labels: np.ndarray | Tensor,
    shape: EpisodeShape,
    classifiers: Sequence[str] = CLASSIFIERS,
    num_episodes: int = 600,
    seed: int = 0,
    transform: str = "l2",
    mean: Tensor | None = None,
    inverse_penalty: float = 1.0,
) -> list[FewShotResult]:
    """Recognise the queries of many episodes from their support images.

    All classifiers see the same episodes. They are computed in chunks, so memory does not grow with their number.

    Args:
        features (Tensor): Of all images of the test classes, (N, D).
        labels (np.ndarray | Tensor): Their classes, (N,).
        shape (EpisodeShape): Size of the episodes.
        classifiers (Sequence[str]): ``nearest_mean`` and/or ``logistic_regression``. Defaults to both.
        num_episodes (int): How many episodes. Defaults to 600.
        seed (int): Of the episodes. Defaults to 0.
        transform (str): See :func:`transform_features`. Defaults to ``'l2'``.
        mean (Tensor, optional): See :func:`transform_features`.
        inverse_penalty (float): ``C`` of the logistic regression. Defaults to 1.

    Returns:
        list[FewShotResult]: One a classifier.

    Raises:
        ValueError: If a classifier or transform is unknown, or the data are too few for the episodes.
    """
    unknown = [name for name in classifiers if name not in CLASSIFIERS]
    if unknown or not classifiers:
        raise ValueError(f"few-shot: classifiers must be some of {CLASSIFIERS}, got {list(classifiers)!r}.")
    check_count("few-shot: seed", seed, 0)
    check_number("few-shot: inverse_penalty", inverse_penalty, 0, open_low=True)
    labels = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if labels.shape != (len(features),):
        raise ValueError(f"few-shot: {len(features)} features need as many labels, got labels of {labels.shape}.")
    if mean is not None and mean.shape != features.shape[1:]:
        raise ValueError(f"few-shot: mean must be (D,) for features (N, D), got {tuple(mean.shape)}")
    bank = transform_features(features, transform, mean)
    sampler = EpisodeSampler(labels, shape, num_episodes, seed)
    images = shape.num_ways * (shape.num_shots + shape.num_queries)
    chunk = max(1, _CHUNK_VALUES // (images * bank.shape[1]))
    accuracies: dict[str, list[Tensor]] = {name: [] for name in classifiers}
    unconverged = 0
    with torch.inference_mode():
        while len(sampler):
            support_index, query_index = (torch.from_numpy(index).to(bank.device) for index in sampler.draw(chunk))
            support, query = bank[support_index], bank[query_index].flatten(1, 2)
            target = torch.arange(shape.num_ways, device=bank.device).repeat_interleave(shape.num_queries)
            for name in classifiers:
                if name == "nearest_mean":
                    logits = nearest_mean_logits(support, query)
                else:
                    logits, missed = _logistic_logits(support, query, inverse_penalty)
                    unconverged += missed
                accuracies[name].append((logits.argmax(-1) == target).double().mean(1).cpu())
    results = []
    for name in classifiers:
        accuracy, interval = confidence_interval(100 * torch.cat(accuracies[name]).numpy())
        missed = unconverged if name == "logistic_regression" else 0
        results.append(FewShotResult(shape, name, transform, num_episodes, accuracy, interval, missed))
    return results


def _logistic_logits(support: Tensor, query: Tensor, inverse_penalty: float) -> tuple[Tensor, int]:
    episodes, ways, shots, _ = support.shape
    target = torch.arange(ways, device=support.device).repeat_interleave(shots).expand(episodes, -1)
    # The tolerance is scikit-learn's default.
    fitted = fit_logistic_regression(support.flatten(1, 2), target, ways, inverse_penalty, tolerance=1e-4)
    return fitted(query), int((~fitted.converged).sum())
