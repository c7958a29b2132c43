"""Gradients through steps of SGD: how what the steps minimise should change so that they lead to a better place."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Objective = Callable[[list[Tensor]], Tensor]


def _leave(tensors: Sequence[Tensor]) -> None:
    """Average over one process."""


def meta_gradient(
    objectives: Sequence[Objective],
    outer: Objective,
    parameters: Sequence[Tensor],
    hyperparameters: Sequence[Tensor],
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    average: Callable[[Sequence[Tensor]], None] = _leave,
) -> list[Tensor]:
    """Differentiate an objective after some steps of SGD with respect to what the steps' objectives depend on.

    The steps are ``v' = m v + grad l_t(theta) + wd theta`` and ``theta' = theta - lr v'`` with v = 0 at first. They are
    retraced backwards with one Hessian-vector product a step, so that the graph of one step is in memory at a time.

    Source: the reverse recursion of Jang et al., "Learning What and Where to Transfer", ICML 2019, which the L-MCL
    authors use; the term of weight decay is the exact one.

    Args:
        objectives (Sequence[Callable]): Objective l_t of each step: maps parameters to a scalar, and may depend on
            ``hyperparameters``. It is called twice and must give the same both times.
        outer (Callable): Objective after the last step.
        parameters (Sequence[Tensor]): Where the steps start; not changed.
        hyperparameters (Sequence[Tensor]): Leaves that require gradients.
        lr (float): Learning rate of the steps.
        momentum (float): Momentum m of the steps. Defaults to 0.
        weight_decay (float): Weight decay wd of the steps. Defaults to 0.
        average (Callable, optional): Averages tensors over processes, in place. With it the steps and the result are
            those of the mean of all processes' objectives.

    Returns:
        list[Tensor]: The gradient for each hyperparameter.
    """
    starts, carried = _run_steps(objectives, parameters, lr, momentum, weight_decay, average)
    both = _gradients(outer(carried), [*carried, *hyperparameters])
    adjoint, result = both[: len(carried)], both[len(carried) :]  # the latter is of this process until the end
    average(adjoint)
    velocity_adjoint = [torch.zeros_like(value) for value in adjoint]
    for objective, start in zip(reversed(objectives), reversed(starts), strict=True):
        direction = [c - lr * a for a, c in zip(adjoint, velocity_adjoint, strict=True)]
        gradients = _gradients(objective(start), start, create_graph=True)
        product = sum((g * s).sum() for g, s in zip(gradients, direction, strict=True))
        second = _gradients(product, [*start, *hyperparameters])
        curvature = second[: len(start)]
        average(curvature)
        result = [total + new for total, new in zip(result, second[len(start) :], strict=True)]
        adjoint = [
            a * (1 - lr * weight_decay) + weight_decay * c + h
            for a, c, h in zip(adjoint, velocity_adjoint, curvature, strict=True)
        ]
        velocity_adjoint = [momentum * s for s in direction]
    average(result)
    return result


def _run_steps(
    objectives: Sequence[Objective],
    parameters: Sequence[Tensor],
    lr: float,
    momentum: float,
    weight_decay: float,
    average: Callable[[Sequence[Tensor]], None],
) -> tuple[list[list[Tensor]], list[Tensor]]:
    """Return the parameters before each step, and those after the last."""
    current = [value.detach().clone().requires_grad_() for value in parameters]
    velocity = [torch.zeros_like(value) for value in parameters]
    starts = []
    for objective in objectives:
        starts.append(current)
        gradients = _gradients(objective(current), current)
        average(gradients)
        with torch.no_grad():
            velocity = [
                momentum * v + g + weight_decay * value
                for v, g, value in zip(velocity, gradients, current, strict=True)
            ]
            current = [(value - lr * v) for value, v in zip(current, velocity, strict=True)]
        current = [value.requires_grad_() for value in current]
    return starts, current


def _gradients(value: Tensor | int, inputs: Sequence[Tensor], create_graph: bool = False) -> list[Tensor]:
    """Gradients of a scalar, zeros where it does not depend on an input."""
    if not isinstance(value, Tensor) or not value.requires_grad:
        return [torch.zeros_like(tensor) for tensor in inputs]
    found = torch.autograd.grad(value, inputs, create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(found, inputs, strict=True)]
