"""The four rotations of HSAKD and their joint labels."""

from typing import overload

import torch
from torch import Tensor

NUM_ROTATIONS = 4


@overload
def rotate4(images: Tensor) -> Tensor: ...
@overload
def rotate4(images: Tensor, target: Tensor) -> tuple[Tensor, Tensor]: ...
def rotate4(images: Tensor, target: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
    """Rotate every image by 0, 90, 180 and 270 degrees, counter-clockwise.

    The rotations of an image are neighbours: row 4 * i + k is image i rotated k times. Stays on the device; images
    that are channels-last stay so.

    Source: Yang et al., "Hierarchical Self-supervised Augmented Knowledge Distillation", IJCAI 2021, section 3.1.

    Args:
        images (Tensor): Square images, (B, C, S, S).
        target (Tensor, optional): Class indices y, int64, (B,).

    Returns:
        Tensor | tuple[Tensor, Tensor]: The rotated images, (4B, C, S, S); with ``target`` also the joint labels
        4 * y + k, int64, (4B,).

    Raises:
        ValueError: If the images are not square.
    """
    if images.ndim != 4 or images.shape[-2] != images.shape[-1]:
        raise ValueError(
            f"rotate4 needs square images of shape (B, C, S, S), got {tuple(images.shape)}: a rotation by 90 degrees "
            "would change height and width; crop or resize the training images to squares in the pipeline."
        )
    if images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous():
        rotated = _rotate(images.permute(0, 2, 3, 1), height=1).permute(0, 3, 1, 2)
    else:
        rotated = _rotate(images, height=2)
    return rotated if target is None else (rotated, joint_target(target))


def joint_target(target: Tensor) -> Tensor:
    """Return the labels of class and rotation: 4 * y + k at row 4 * i + k.

    Args:
        target (Tensor): Class indices y, int64, (B,).

    Returns:
        Tensor: int64, (4B,).
    """
    rotation = torch.arange(NUM_ROTATIONS, device=target.device)
    return (NUM_ROTATIONS * target.unsqueeze(1) + rotation).flatten()


def class_logits(joint_logits: Tensor) -> Tensor:
    """Score classes whatever their rotation: the sum of the four logits of each class.

    Args:
        joint_logits (Tensor): Logits of class and rotation, (R, 4N).

    Returns:
        Tensor: (R, N).
    """
    return joint_logits.unflatten(1, (-1, NUM_ROTATIONS)).sum(2)


def _rotate(images: Tensor, height: int) -> Tensor:
    """Rotate along the axes ``height`` and ``height + 1``; the first axis is the batch."""
    width = height + 1
    transposed = images.transpose(height, width)
    turns = (images, transposed.flip(height), images.flip(height, width), transposed.flip(width))
    return torch.stack(turns, dim=1).flatten(0, 1)
