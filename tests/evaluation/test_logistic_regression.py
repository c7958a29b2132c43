import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mmkdprune.evaluation import fit_logistic_regression


def problems(number: int, samples: int, dim: int, classes: int, scale: float = 1.0):
    generator = torch.Generator().manual_seed(samples + dim)
    target = torch.arange(samples) % classes
    centres = torch.randn(number, classes, dim, generator=generator)
    noise = torch.randn(number, samples, dim, generator=generator)
    return scale * (centres[:, target] + noise), target.expand(number, -1)


@pytest.mark.parametrize("penalty", [0.01, 1.0, 100.0])
@pytest.mark.parametrize(("samples", "dim", "classes"), [(25, 64, 5), (10, 3, 2), (40, 12, 4)])
def test_is_the_optimum_of_scikit_learn(samples, dim, classes, penalty):
    features, target = problems(3, samples, dim, classes)
    fitted = fit_logistic_regression(features, target, classes, penalty, tolerance=1e-9)
    assert fitted.converged.all()
    for episode in range(3):
        inputs = features[episode].double().numpy()
        # Of two classes scikit-learn fits one weight vector w. The softmax has (-w / 2, w / 2), half the penalty.
        c = 2 * penalty if classes == 2 else penalty
        reference = LogisticRegression(C=c, tol=1e-10, max_iter=10_000, solver="newton-cg")
        reference.fit(inputs, target[episode].numpy())
        ours = torch.softmax(fitted(features.double())[episode], dim=1).numpy()
        np.testing.assert_allclose(ours, reference.predict_proba(inputs), atol=2e-6)
        if classes > 2:
            np.testing.assert_allclose(fitted.weight[episode].numpy(), reference.coef_, atol=1e-5)


def test_problems_do_not_touch_each_other():
    features, target = problems(4, 15, 20, 3)
    features[1] *= 30  # needs more steps than the others
    together = fit_logistic_regression(features, target, 3)
    for episode in range(4):
        alone = fit_logistic_regression(features[episode : episode + 1], target[episode : episode + 1], 3)
        torch.testing.assert_close(together.weight[episode], alone.weight[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fill", [0.0, 3.0])
def test_features_that_say_nothing(fill):
    features = torch.full((2, 6, 4), fill)
    fitted = fit_logistic_regression(features, torch.arange(6).expand(2, -1) % 3, 3)
    assert fitted.converged.all()
    torch.testing.assert_close(torch.softmax(fitted(features.double()), -1), torch.full((2, 6, 3), 1 / 3).double())


def test_bad_penalty():
    with pytest.raises(ValueError, match=r"inverse_penalty \(C\) must be positive, got 0"):
        fit_logistic_regression(torch.randn(1, 4, 2), torch.tensor([[0, 1, 0, 1]]), 2, inverse_penalty=0)
