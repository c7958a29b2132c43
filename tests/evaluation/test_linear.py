import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from mmkdprune.evaluation import FeatureSet, fit_linear


def make(classes: int = 6, number: int = 40, seed: int = 0) -> FeatureSet:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat(number)
    centres = torch.randn(classes, 10, generator=torch.Generator().manual_seed(99))
    features = centres[labels] + torch.randn(len(labels), 10, generator=generator)
    scales = torch.tensor([1e-3, 1, 50, 1, 1, 1, 1, 1, 1, 0.0])  # the last one is constant
    return FeatureSet(features * scales + 5, labels, tuple(map(str, range(classes))))


@pytest.mark.parametrize("classes", [2, 6])
def test_logistic_regression_is_that_of_scikit_learn_on_standardised_features(classes):
    train, test = make(classes), make(classes, seed=1)
    result = fit_linear(train, test, "logistic_regression", C=0.5)
    scaler = StandardScaler().fit(train.features)
    reference = LogisticRegression(C=0.5, max_iter=1000).fit(scaler.transform(train.features), train.labels)
    assert result.top1 == pytest.approx(100 * reference.score(scaler.transform(test.features), test.labels), abs=0.5)
    assert result.settings["C"] == 0.5
    assert (result.top5 is None) == (classes == 2)


def test_sgd_comes_close_to_the_optimum_and_depends_on_the_seed_only():
    train, test = make(), make(seed=1)
    result = fit_linear(train, test, "sgd", epochs=60, batch_size=32, lr=0.05)
    again = fit_linear(train, test, "sgd", epochs=60, batch_size=32, lr=0.05)
    other = fit_linear(train, test, "sgd", epochs=60, batch_size=32, lr=0.05, seed=1)
    optimum = fit_linear(train, test, "logistic_regression", C=1e3)
    assert torch.equal(result.weight, again.weight)
    assert not torch.equal(result.weight, other.weight)
    assert abs(result.top1 - optimum.top1) < 4
    assert result.train_top1 > 80
    # The weights are those of the features as they are.
    logits = test.features.double() @ result.weight.T + result.bias
    assert 100 * (logits.argmax(1) == test.labels).double().mean().item() == pytest.approx(result.top1)


def test_one_step_of_sgd_is_that_of_autograd():
    train = make()
    result = fit_linear(train, train, "sgd", epochs=1, batch_size=len(train.labels), lr=0.3)
    mean, std = train.features.mean(0), train.features.std(0, correction=0)
    layer = torch.nn.Linear(10, 6)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), 0.3, momentum=0.9, nesterov=True)
    standardised = torch.nan_to_num((train.features - mean) / torch.where(std > 1e-4, std, torch.inf))
    torch.nn.functional.cross_entropy(layer(standardised), train.labels).backward()
    optimizer.step()
    logits = train.features.double() @ result.weight.T + result.bias
    torch.testing.assert_close(logits.float(), layer(standardised).detach(), atol=1e-5, rtol=1e-4)


def test_classes_without_a_training_image_are_never_chosen():
    train = make()
    kept = train.labels != 2
    partial = FeatureSet(train.features[kept], train.labels[kept], train.classes)
    result = fit_linear(partial, train, "logistic_regression")
    assert 60 < result.top1 < 100 * np.mean(kept.numpy()) + 1e-6


def test_bad_input():
    train = make()
    with pytest.raises(ValueError, match=r"solver must be one of .* got 'adam'"):
        fit_linear(train, train, "adam")
    with pytest.raises(ValueError, match="must have the same classes"):
        fit_linear(train, dataclasses.replace(train, classes=("a",)))
    with pytest.raises(ValueError, match="needs images of 2 classes, the training set has 1"):
        fit_linear(FeatureSet(train.features[:1], train.labels[:1], train.classes), train)
    with pytest.raises(ValueError, match="label 5, the training set only 3 classes"):
        fit_linear(dataclasses.replace(make(3), classes=None), dataclasses.replace(train, classes=None))
    with pytest.raises(ValueError, match="features of 10 and 4 values"):
        fit_linear(train, dataclasses.replace(train, features=train.features[:, :4]))
