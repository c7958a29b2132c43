import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.neighbors import NearestCentroid

from mmkdprune.evaluation import EpisodeSampler, EpisodeShape, confidence_interval, evaluate_few_shot, few_shot

SHAPE = EpisodeShape(4, 3, 5)


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(6).repeat_interleave(20)
    centres = torch.randn(6, 16, generator=generator)
    return centres[labels] + torch.randn(120, 16, generator=generator), labels


def test_interval_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(70, 9, 600)
    mean, half = confidence_interval(values)
    low, high = stats.norm.interval(0.95, loc=values.mean(), scale=stats.sem(values))
    assert mean == pytest.approx((low + high) / 2)
    assert half == pytest.approx((high - low) / 2, rel=1e-4)
    assert np.isnan(confidence_interval(np.array([50.0]))[1])


def test_nearest_mean_is_the_nearest_centroid(data):
    features, labels = data
    (result,) = evaluate_few_shot(features, labels, SHAPE, ["nearest_mean"], 30, transform="none")
    sampler = EpisodeSampler(labels.numpy(), SHAPE, 30)
    accuracies = []
    for support, query in zip(*sampler.draw(30), strict=True):
        classifier = NearestCentroid().fit(features[support.flatten()], labels[support.flatten()])
        accuracies.append(100 * classifier.score(features[query.flatten()], labels[query.flatten()]))
    assert result.accuracy == pytest.approx(np.mean(accuracies))
    assert result.interval == pytest.approx(1.96 * np.std(accuracies, ddof=1) / np.sqrt(30))


def test_reproducible_whatever_the_chunks(data, monkeypatch):
    first = evaluate_few_shot(*data, SHAPE, num_episodes=40, seed=3)
    assert [result.classifier for result in first] == ["nearest_mean", "logistic_regression"]
    assert all(25 < result.accuracy < 100 and 0 < result.interval < 10 for result in first)
    monkeypatch.setattr(few_shot, "_CHUNK_VALUES", 7 * 4 * 8 * 16)
    again = evaluate_few_shot(data[0], data[1].numpy(), SHAPE, num_episodes=40, seed=3)
    assert [result.accuracy for result in first] == pytest.approx([result.accuracy for result in again])
    assert evaluate_few_shot(*data, SHAPE, num_episodes=40, seed=4)[0].accuracy != first[0].accuracy


def test_features_without_information_are_at_chance():
    features, labels = torch.randn(300, 8, generator=torch.Generator().manual_seed(1)), np.arange(300) % 6
    for result in evaluate_few_shot(features, labels, EpisodeShape(5, 1), num_episodes=300):
        assert abs(result.accuracy - 20) < 2


def test_transforms(data):
    features, labels = data
    unit = few_shot.transform_features(features, "l2")
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(120))
    mean = features.mean(0)
    centred = few_shot.transform_features(features, "centred_l2", mean)
    torch.testing.assert_close(centred, torch.nn.functional.normalize(features - mean, dim=1))
    # A constant offset does not matter once it is subtracted.
    options = {"classifiers": ["nearest_mean"], "num_episodes": 20, "transform": "centred_l2"}
    (plain,) = evaluate_few_shot(features, labels, SHAPE, mean=mean, **options)
    (shifted,) = evaluate_few_shot(features + 100, labels, SHAPE, mean=mean + 100, **options)
    assert plain.accuracy == pytest.approx(shifted.accuracy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classifiers": ["svm"]}, r"classifiers must be some of .* got \['svm'\]"),
        ({"classifiers": []}, "classifiers must be some of"),
        ({"transform": "l3"}, "transform must be one of .* got 'l3'"),
        ({"transform": "centred_l2"}, "needs the mean feature of the training classes"),
        ({"labels": np.zeros(3)}, "120 features need as many labels"),
    ],
)
def test_bad_input(data, options, message):
    labels = options.pop("labels", data[1])
    with pytest.raises(ValueError, match=message):
        evaluate_few_shot(data[0], labels, SHAPE, num_episodes=2, **options)
