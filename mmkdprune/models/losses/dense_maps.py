"""Checks that all losses of feature and class maps share."""

from typing import Any

from torch import Tensor

from ..utils import is_number


def check_loss_weight(owner: str, weight: Any) -> float:
    """Return a loss weight that is a finite number of 0 or more.

    Args:
        owner (str): The loss, for the message.
        weight (Any): What a config holds.

    Returns:
        float: The weight.

    Raises:
        ValueError: If it is not such a number.
    """
    if not (is_number(weight) and weight >= 0):
        raise ValueError(f"{owner}: loss_weight must be a finite number of 0 or more, got {weight!r}.")
    return float(weight)


def check_maps(owner: str, student: Tensor, teacher: Tensor, same_size: bool = True) -> None:
    """Refuse maps that cannot be compared channel by channel.

    Args:
        owner (str): The loss, for the message.
        student (Tensor): Map of the network that learns, (N, C, H, W).
        teacher (Tensor): Map of the network that is imitated, (N, C, H, W).
        same_size (bool): Whether H and W must agree, too. Defaults to True.

    Raises:
        ValueError: If they are not maps, or differ in images, channels or size.
    """
    ours, theirs = tuple(student.shape), tuple(teacher.shape)
    if len(ours) != 4 or len(theirs) != 4:
        raise ValueError(f"{owner}: compares maps of shape (N, C, H, W), got {ours} and {theirs}.")
    if ours[0] != theirs[0]:
        raise ValueError(f"{owner}: student and teacher must see the same images, got {ours[0]} and {theirs[0]}.")
    if ours[1] != theirs[1]:
        raise ValueError(
            f"{owner}: the student's map has {ours[1]} channels and the teacher's {theirs[1]}: choose maps of the same "
            "width, or set adapter=True in the entry of losses, which adds a 1x1 convolution for training."
        )
    if same_size and ours[2:] != theirs[2:]:
        raise ValueError(
            f"{owner}: the student's map is {ours[2]}x{ours[3]} and the teacher's {theirs[2]}x{theirs[3]} pixels: both "
            "networks need the same stride there (strides and dilations of the backbone, levels of the entry)."
        )
