"""Checks of option values and targets."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# Absent before PyTorch 2.3; a check is then part of the graph.
is_compiling = getattr(torch.compiler, "is_compiling", lambda: False)


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number.

    Args:
        value (Any): What a config holds.

    Returns:
        bool: False for text, infinity, NaN, booleans and anything else.
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_temperature(owner: str, temperature: Any) -> float:
    """Return a softmax temperature that is a positive number.

    Args:
        owner (str): Whose temperature it is, for the message.
        temperature (Any): What a config holds.

    Returns:
        float: The temperature.

    Raises:
        ValueError: If it is none.
    """
    if not (is_number(temperature) and temperature > 0):
        raise ValueError(f"{owner}: temperature must be a positive number, got {temperature!r}.")
    return float(temperature)


def check_loss_weights(
    owner: str, given: Mapping[str, Any] | None, names: Sequence[str], defaults: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Return the weights of all terms of an objective.

    Args:
        owner (str): Whose terms they are, for the message.
        given (Mapping[str, Any], optional): What a config holds.
        names (Sequence[str]): The terms.
        defaults (Mapping[str, float], optional): Weights of terms that are not given; 1 for those not in it.

    Returns:
        dict[str, float]: One weight a term.

    Raises:
        ValueError: If a term is unknown, or a weight is no finite number of 0 or more.
    """
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise ValueError(
            f"{owner}: loss_weights must be a dict of term and weight, got {given!r}; terms: {list(names)}."
        )
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise ValueError(f"{owner}: loss_weights has unknown name(s) {unknown}; known: {list(names)}.")
    bad = {name: weight for name, weight in given.items() if not (is_number(weight) and weight >= 0)}
    if bad:
        raise ValueError(f"{owner}: loss_weights must be finite numbers of 0 or more, got {bad}.")
    return {name: float(given.get(name, (defaults or {}).get(name, 1.0))) for name in names}


def check_class_indices(owner: str, target: Tensor) -> None:
    """Refuse labels that are soft, or several an image.

    Args:
        owner (str): Who needs the labels, for the message.
        target (Tensor): Class indices, integers, (B,).

    Raises:
        ValueError: If they are.
    """
    if target.ndim != 1 or target.is_floating_point():
        raise ValueError(
            f"{owner}: target must hold one class index an image, shape (B,), got {tuple(target.shape)} of "
            f"{target.dtype}: soft or multi-label targets are not supported."
        )


def check_target(owner: str, target: Tensor, num_classes: int) -> None:
    """Refuse labels that are no class indices below ``num_classes``.

    The range is checked without waiting for the device: on a GPU a wrong label ends the process with the message of a
    device-side assertion some steps later; on devices other than CPU and CUDA it is not checked.

    Args:
        owner (str): Who needs the labels, for the message.
        target (Tensor): Class indices, integers, (B,).
        num_classes (int): Number of classes N.

    Raises:
        ValueError: If the labels are soft or multi-label or (on a CPU) one lies outside 0 ... N-1.
    """
    check_class_indices(owner, target)
    if is_compiling():
        return  # whoever compiles the step checks before it, where the message survives
    if target.device.type not in ("cpu", "cuda"):
        return  # other devices have no assertion that does not wait
    message = f"{owner}: a label lies outside 0 ... {num_classes - 1}, the range of {num_classes} classes"
    try:
        torch._assert_async(((target >= 0) & (target < num_classes)).all(), message)
    except RuntimeError:
        raise ValueError(
            f"{message}: got {sorted({label for label in target.tolist() if not 0 <= label < num_classes})}. Correct "
            "the annotations, or set the number of classes of head and logits to that of the data."
        ) from None


def check_embeddings(owner: str, embeddings: Sequence[Tensor], target: Tensor | None = None) -> None:
    """Refuse embeddings of several networks that cannot be compared with each other.

    Args:
        owner (str): Who compares them, for the message.
        embeddings (Sequence[Tensor]): One (B, D) tensor a network.
        target (Tensor, optional): Class indices, integers, (B,).

    Raises:
        ValueError: If there are none, their shapes differ, or there is not one label a row.
    """
    if len(embeddings) < 1:
        raise ValueError(f"{owner}: needs embeddings of at least one network, got none.")
    shapes = [tuple(rows.shape) for rows in embeddings]
    if len(set(shapes)) > 1 or len(shapes[0]) != 2:
        raise ValueError(
            f"{owner}: all networks need embeddings of the same shape (B, D), got {shapes}: give their projection "
            "heads the same out_channels, and all networks the same images."
        )
    if target is None:
        return
    check_class_indices(owner, target)
    if len(target) != shapes[0][0]:
        raise ValueError(f"{owner}: got {len(target)} labels for {shapes[0][0]} rows of embeddings.")
