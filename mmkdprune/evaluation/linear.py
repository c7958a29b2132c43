"""Linear classifiers on features that were computed once: a fast estimate of a linear probe.

The protocol of the papers trains the classifier for many epochs on augmented images; here every image has one feature,
that of the test pipeline. The figures are close, and not the same thing.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmkdprune.arguments import check_count, check_number, checked
from mmkdprune.metadata.class_names import difference
from mmkdprune.randomness import derive_seed

from .features import FeatureSet
from .knn import topk_accuracy

SOLVERS = ("sgd", "logistic_regression")


@checked
@dataclass(frozen=True)
class LinearResult:
    """A linear classifier and what it reaches.

    Attributes:
        solver: ``sgd`` or ``logistic_regression``.
        top1: Accuracy on the validation features, in percent.
        top5: Likewise among the five best classes; with less than 6 classes None.
        train_top1: Accuracy on the training features.
        settings: Of the solver.
        weight: On the features as they are, float64, (C, D).
        bias: float64, (C,).
    """

    solver: str
    top1: float
    top5: float | None
    train_top1: float
    settings: dict[str, Any]
    weight: Tensor = field(repr=False)
    bias: Tensor = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, without the weights."""
        return {
            name: getattr(self, name)
            for name in ("solver", "top1", "top5", "train_top1", "settings")
            if getattr(self, name) is not None
        }


@checked
def fit_linear(
    train: FeatureSet,
    validation: FeatureSet,
    solver: str = "sgd",
    seed: int = 0,
    **settings: Any,
) -> LinearResult:
    """Fit a linear classifier to features and evaluate it.

    Features are standardised by the training set before; the returned weights have that multiplied in.

    Args:
        train (FeatureSet): Features to learn from.
        validation (FeatureSet): Features to recognise.
        solver (str): ``'sgd'`` (:func:`fit_sgd`) or ``'logistic_regression'`` (scikit-learn's). Defaults to ``'sgd'``.
        seed (int): Order of the images. Defaults to 0.
        **settings (Any): Of the solver: arguments of :func:`fit_sgd`, or of ``LogisticRegression`` (``C``, ``tol``,
            ``max_iter``).

    Returns:
        LinearResult: Classifier and accuracies.

    Raises:
        ValueError: If the solver is unknown, the sets differ in their classes, or only one class is there.
    """
    if solver not in SOLVERS:
        raise ValueError(f"linear probe: solver must be one of {SOLVERS}, got {solver!r}.")
    _check(train, validation)
    mean, std = train.features.mean(0), train.features.std(0, correction=0)
    std = torch.where(std > 1e-6 * std.max(), std, torch.inf)  # a feature that is always the same says nothing
    standardised = (train.features - mean) / std
    if solver == "sgd":
        weight, bias, used = fit_sgd(standardised, train.labels, train.num_classes, seed=seed, **settings)
    else:
        weight, bias, used = _fit_scikit_learn(standardised, train.labels, train.num_classes, settings)
    logits = (validation.features - mean) / std @ weight.T + bias
    # In double precision: a large mean over a small deviation would lose digits.
    own_weight = weight.double() / std.double()
    return LinearResult(
        solver=solver,
        top1=topk_accuracy(logits, validation.labels),
        top5=topk_accuracy(logits, validation.labels, 5) if train.num_classes > 5 else None,
        train_top1=topk_accuracy(standardised @ weight.T + bias, train.labels),
        settings=used,
        weight=own_weight,
        bias=bias - own_weight @ mean.double(),
    )


def fit_sgd(
    features: Tensor,
    target: Tensor,
    num_classes: int,
    seed: int = 0,
    epochs: int = 100,
    batch_size: int = 256,
    lr: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Train a linear layer by SGD with Nesterov momentum and a cosine schedule, its gradient in closed form.

    Args:
        features (Tensor): float32, (N, D).
        target (Tensor): Class indices, int64, (N,).
        num_classes (int): Number of classes C.
        seed (int): Order of the images. Defaults to 0.
        epochs (int): Passes over the features. Defaults to 100.
        batch_size (int): Features a step. Defaults to 256.
        lr (float): First learning rate. Defaults to 0.1.
        momentum (float): Of the gradients. Defaults to 0.9.
        weight_decay (float): Of weights, not of biases. Defaults to 0.

    Returns:
        tuple[Tensor, Tensor, dict[str, Any]]: Weights, (C, D), biases, (C,), and the settings.
    """
    check_count("linear probe: epochs", epochs, 1)
    check_count("linear probe: batch_size", batch_size, 1)
    check_number("linear probe: lr", lr, 0, 1e6, open_low=True)
    check_number("linear probe: momentum", momentum, 0, 1, open_high=True)
    check_number("linear probe: weight_decay", weight_decay, 0)
    count, dim = features.shape
    generator = torch.Generator().manual_seed(derive_seed("linear probe", seed) % 2**63)
    inputs = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
    onehot = F.one_hot(target, num_classes).to(inputs)
    parameters = inputs.new_zeros(num_classes, dim + 1)
    decay = parameters.new_full((dim + 1,), weight_decay)
    decay[-1] = 0
    velocity = torch.zeros_like(parameters)
    steps = -(-count // batch_size) * epochs
    step = 0
    with torch.inference_mode():
        for _ in range(epochs):
            for rows in torch.randperm(count, generator=generator).split(batch_size):
                images = inputs[rows]
                residual = torch.softmax(images @ parameters.T, dim=1).sub_(onehot[rows]).div_(len(rows))
                gradient = torch.addcmul(residual.T @ images, parameters, decay)
                velocity.mul_(momentum).add_(gradient)
                rate = 0.5 * lr * (1 + np.cos(np.pi * step / steps))
                parameters.sub_(gradient.add_(velocity, alpha=momentum), alpha=rate)
                step += 1
    used = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "momentum": momentum, "weight_decay": weight_decay}
    parameters = parameters.clone()
    if not parameters.isfinite().all():
        raise ValueError(f"linear probe: the classifier grew beyond all numbers with lr={lr:g}: lower it")
    return parameters[:, :-1], parameters[:, -1], used


def _fit_scikit_learn(
    features: Tensor, target: Tensor, num_classes: int, settings: dict[str, Any]
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    from sklearn.linear_model import LogisticRegression

    used = {"C": 1.0, "tol": 1e-4, "max_iter": 1000, **settings}
    fitted = LogisticRegression(**used).fit(features.numpy(), target.numpy())
    weight, bias = torch.from_numpy(fitted.coef_).float(), torch.from_numpy(fitted.intercept_).float()
    if len(fitted.classes_) == 2:  # one row, for the second class
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    # Classes without a training image are never chosen.
    all_weights, all_biases = weight.new_zeros(num_classes, weight.shape[1]), bias.new_full((num_classes,), -torch.inf)
    all_weights[fitted.classes_], all_biases[fitted.classes_] = weight, bias
    return all_weights, all_biases, used


def _check(train: FeatureSet, validation: FeatureSet) -> None:
    if train.classes is not None and validation.classes is not None and train.classes != validation.classes:
        found = difference(train.classes, validation.classes, "the training set", "the validation set")
        raise ValueError(f"linear probe: training and validation set must have the same classes, but {found}.")
    if train.features.shape[1] != validation.features.shape[1]:
        raise ValueError(
            f"linear probe: features of {train.features.shape[1]} and {validation.features.shape[1]} values cannot be "
            "compared."
        )
    number = len(torch.unique(train.labels))
    if number < 2:
        raise ValueError(f"linear probe: a classifier needs images of 2 classes, the training set has {number}.")
    if int(validation.labels.max()) >= train.num_classes:
        raise ValueError(
            f"linear probe: the validation set has the label {int(validation.labels.max())}, the training set only "
            f"{train.num_classes} classes."
        )
