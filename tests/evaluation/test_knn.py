import numpy as np
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from mmkdprune.evaluation import knn_scores, topk_accuracy, topk_hits


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(5).repeat_interleave(30)
    features = torch.randn(5, 12, generator=generator)[labels] + torch.randn(150, 12, generator=generator)
    order = torch.randperm(150, generator=generator)
    return features[order[:100]], labels[order[:100]], features[order[100:]], labels[order[100:]]


@pytest.mark.parametrize("temperature", [None, 0.07])
@pytest.mark.parametrize("neighbours", [1, 7, 200])
def test_is_the_classifier_of_scikit_learn(data, neighbours, temperature):
    bank, labels, queries, target = data

    def votes(distances: np.ndarray) -> np.ndarray:
        return np.ones_like(distances) if temperature is None else np.exp(-distances / temperature)

    reference = KNeighborsClassifier(min(neighbours, 100), metric="cosine", weights=votes).fit(bank, labels)
    scores = knn_scores(bank, labels, queries, 5, neighbours, temperature, chunk=16)
    shares = scores / scores.sum(1, keepdim=True)
    np.testing.assert_allclose(shares.numpy(), reference.predict_proba(queries), atol=1e-4)
    if temperature is not None or neighbours == 1:  # no ties
        assert topk_accuracy(scores, target) == pytest.approx(100 * reference.score(queries, target))
    if temperature is not None and neighbours > 1:  # no ties of the second best, either
        expected = top_k_accuracy_score(target, scores, k=2, normalize=False, labels=range(5))
        assert topk_hits(scores, target, (5, 2)).tolist() == [50, expected]


def test_bad_input(data):
    bank, labels, queries, _ = data
    with pytest.raises(ValueError, match=r"labels of the training images must lie in 0 ... 3, found 0 ... 4"):
        knn_scores(bank, labels, queries, 4)
    with pytest.raises(ValueError, match="must be positive, got 0"):
        knn_scores(bank, labels, queries, 5, num_neighbours=0)
