"""Multinomial logistic regression for many small problems at once.

The optimum is the one of scikit-learn's ``LogisticRegression``: minimal is ``C * sum of cross-entropies + |W|^2 / 2``,
with free biases. Since W lies in the span of the n samples, each problem is solved in at most n coordinates, however
many features there are, by Newton's method with conjugate gradients; all problems share the same tensor operations.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mmkdprune.arguments import check_count, check_number, checked

_EPSILON = 1e-10  # eigenvalues of a Gram matrix below this share of the largest are rounding errors
_ARMIJO = 1e-4
_HALVINGS = 30


class BatchedLogisticRegression(NamedTuple):
    """Fitted classifiers.

    Attributes:
        weight: (E, C, D).
        bias: (E, C).
        iterations: Newton steps of the slowest problem.
        converged: Whether a problem met the tolerance, bool, (E,).
    """

    weight: Tensor
    bias: Tensor
    iterations: int
    converged: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Compute logits, (E, Q, C), of features (E, Q, D), in the features' precision."""
        return features @ self.weight.to(features).transpose(1, 2) + self.bias.to(features)[:, None]


@checked
def fit_logistic_regression(
    features: Tensor,
    target: Tensor,
    num_classes: int,
    inverse_penalty: float = 1.0,
    tolerance: float = 1e-6,
    max_iterations: int = 100,
) -> BatchedLogisticRegression:
    """Fit one logistic regression an episode.

    Args:
        features (Tensor): (E, n, D).
        target (Tensor): Class indices, int64, (E, n).
        num_classes (int): Number of classes C.
        inverse_penalty (float): scikit-learn's ``C``: weight of the cross-entropies against the penalty. Defaults to 1.
        tolerance (float): Largest entry of the gradient, divided by ``max(1, inverse_penalty * n)``, at which a problem
            is solved. Defaults to 1e-6.
        max_iterations (int): Largest number of Newton steps. Defaults to 100.

    Returns:
        BatchedLogisticRegression: Weights in float64.

    Raises:
        ValueError: If ``inverse_penalty`` is not positive.
    """
    if not inverse_penalty > 0:
        raise ValueError(f"logistic regression: inverse_penalty (C) must be positive, got {inverse_penalty!r}.")
    check_count("logistic regression: num_classes", num_classes, 1)
    check_count("logistic regression: max_iterations", max_iterations, 1)
    check_number("logistic regression: tolerance", tolerance, 0)
    if features.ndim != 3 or target.shape != features.shape[:2]:
        raise ValueError(
            f"logistic regression: features (E, n, D) need target (E, n), got {tuple(features.shape)} and "
            f"{tuple(target.shape)}"
        )
    if target.numel() and not 0 <= int(target.min()) <= int(target.max()) < num_classes:
        raise ValueError(
            f"logistic regression: target must lie in 0 ... {num_classes - 1}, found {int(target.min())} ... "
            f"{int(target.max())}"
        )
    features = features.double()
    gram = features @ features.transpose(1, 2)
    eigenvalues, vectors = torch.linalg.eigh(gram)
    kept = eigenvalues > _EPSILON * eigenvalues[:, -1:].clamp_min(torch.finfo(torch.float64).tiny)
    inverse_root = torch.where(kept, eigenvalues.clamp_min(1e-300).rsqrt(), 0)
    # Coordinates of the samples in an orthonormal basis of their span, which is inverse_root * vectors' * features.
    coordinates = vectors * (eigenvalues * inverse_root)[:, None]
    problem = _Problem(coordinates, eigenvalues * kept, target, num_classes, inverse_penalty)
    solution, iterations, converged = problem.solve(tolerance, max_iterations)
    shares = (solution[..., :-1] * inverse_root[:, None]) @ vectors.transpose(1, 2)  # of each sample in the weights
    return BatchedLogisticRegression(shares @ features, solution[..., -1], iterations, converged)


class _Problem:
    """All problems in coordinates: parameters are (E, C, r + 1), the bias last.

    Args:
        coordinates (Tensor): Samples, (E, n, r).
        eigenvalues (Tensor): Of their second moments, in the same order, (E, r).
        target (Tensor): Class indices, (E, n).
        num_classes (int): C.
        inverse_penalty (float): Weight of the cross-entropies.
    """

    def __init__(
        self, coordinates: Tensor, eigenvalues: Tensor, target: Tensor, num_classes: int, inverse_penalty: float
    ) -> None:
        number = coordinates.shape[1]
        self.samples = torch.cat([coordinates, torch.ones_like(coordinates[..., :1])], dim=-1)
        self.onehot = torch.nn.functional.one_hot(target, num_classes).to(self.samples)
        self.inverse_penalty = inverse_penalty
        self.penalty = torch.ones_like(self.samples[:1, :1])
        self.penalty[..., -1] = 0
        # An upper bound of the Hessian is known (Boehning 1992): half of the second moments, for every class.
        moments = torch.cat([eigenvalues, torch.full_like(eigenvalues[:, :1], number)], dim=1)
        self.preconditioner = 1 / (self.penalty + inverse_penalty * 0.5 * moments[:, None])
        self.scale = max(1.0, inverse_penalty * number)

    def take(self, rows: Tensor) -> "_Problem":
        """Some of the problems."""
        taken = object.__new__(_Problem)
        taken.inverse_penalty, taken.scale, taken.penalty = self.inverse_penalty, self.scale, self.penalty
        for name in ("samples", "onehot", "preconditioner"):
            setattr(taken, name, getattr(self, name)[rows])
        return taken

    def objective(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Objective, (E,), and log-probabilities, (E, n, C)."""
        scores = torch.log_softmax(self.samples @ parameters.transpose(1, 2), dim=-1)
        penalty = 0.5 * (self.penalty * parameters**2).sum((1, 2))
        return penalty - self.inverse_penalty * (scores * self.onehot).sum((1, 2)), scores

    def gradient(self, parameters: Tensor, probabilities: Tensor) -> Tensor:
        """Gradient, (E, C, r + 1)."""
        residuals = (probabilities - self.onehot).transpose(1, 2)
        return self.penalty * parameters + self.inverse_penalty * (residuals @ self.samples)

    def hessian_product(self, direction: Tensor, probabilities: Tensor) -> Tensor:
        """Hessian times a direction, (E, C, r + 1)."""
        scores = self.samples @ direction.transpose(1, 2)
        curvature = probabilities * (scores - (probabilities * scores).sum(-1, keepdim=True))
        return self.penalty * direction + self.inverse_penalty * (curvature.transpose(1, 2) @ self.samples)

    def newton_direction(self, gradient: Tensor, probabilities: Tensor) -> Tensor:
        """Solve for the Newton step by preconditioned conjugate gradients, as exactly as it is worth."""
        norm = gradient.flatten(1).norm(dim=1)
        goal = norm * torch.minimum(torch.full_like(norm, 0.1), (norm / self.scale).sqrt())
        step, residual = torch.zeros_like(gradient), -gradient
        conditioned = self.preconditioner * residual
        direction, energy = conditioned, (residual * conditioned).sum((1, 2))
        for _ in range(min(200, 2 * gradient[0].numel())):
            active = residual.flatten(1).norm(dim=1) > goal
            if not active.any():
                break
            product = self.hessian_product(direction, probabilities)
            curvature = (direction * product).sum((1, 2))
            active &= curvature > 0
            size = torch.where(active, energy / curvature.clamp_min(1e-300), 0)[:, None, None]
            step, residual = step + size * direction, residual - size * product
            conditioned = self.preconditioner * residual
            new_energy = (residual * conditioned).sum((1, 2))
            ratio = torch.where(active, new_energy / energy.clamp_min(1e-300), 0)[:, None, None]
            direction, energy = conditioned + ratio * direction, new_energy
        return step

    def line_search(self, parameters: Tensor, step: Tensor, objective: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Halve each problem's step until the objective falls; return parameters and whether it did."""
        size = torch.ones_like(objective)
        rounding = 1e-14 * objective.abs()
        for _ in range(_HALVINGS):
            trial = parameters + size[:, None, None] * step
            falls = self.objective(trial)[0] <= objective + _ARMIJO * size * slope + rounding
            if falls.all():
                break
            size = torch.where(falls, size, size / 2)
        return torch.where(falls[:, None, None], trial, parameters), falls

    def solve(self, tolerance: float, max_iterations: int) -> tuple[Tensor, int, Tensor]:
        """Iterate until every problem is solved; those that are leave the computation."""
        rows = torch.arange(len(self.samples), device=self.samples.device)
        solution = self.samples.new_zeros(len(rows), self.onehot.shape[2], self.samples.shape[2])
        converged = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        problem, parameters = self, solution.clone()
        for iteration in range(max_iterations + 1):
            objective, scores = problem.objective(parameters)
            probabilities = scores.exp()
            gradient = problem.gradient(parameters, probabilities)
            done = gradient.abs().amax((1, 2)) <= tolerance * problem.scale
            solution[rows] = parameters
            converged[rows] = done
            if done.all() or iteration == max_iterations:
                break
            if done.any():
                left = ~done
                problem, parameters, rows = problem.take(left), parameters[left], rows[left]
                objective, probabilities, gradient = objective[left], probabilities[left], gradient[left]
            step = problem.newton_direction(gradient, probabilities)
            parameters, falls = problem.line_search(parameters, step, objective, (gradient * step).sum((1, 2)))
            if not falls.any():  # rounding errors are all that is left
                solution[rows] = parameters
                break
        return solution, iteration, converged
