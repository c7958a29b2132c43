"""Networks that have their first stages in common."""

from collections.abc import Sequence

import torch.nn as nn

from .stage_protocol import StageProtocol


def share_stages(backbone: nn.Module, others: Sequence[nn.Module], protocol: StageProtocol, number: int) -> list[str]:
    """Give backbones of one architecture the same modules up to a stage.

    Args:
        backbone (nn.Module): The backbone that keeps its modules.
        others (Sequence[nn.Module]): Those that get them, under the same names.
        protocol (StageProtocol): How they split into stages.
        number (int): Stages to share, with what comes before them.

    Returns:
        list[str]: Names of the shared sub-modules.
    """
    own_parts = [*protocol.stages(backbone)[number:], *protocol.modules_after_stages(backbone)]
    names = names_outside(backbone, own_parts)
    # Such as the positions that are added to the embedding of the patches.
    loose = [name for name, _ in backbone.named_parameters(recurse=False)]
    for other in others:
        for name in names:
            parent, _, child = name.rpartition(".")
            setattr(other.get_submodule(parent), child, backbone.get_submodule(name))
        for name in loose:
            setattr(other, name, getattr(backbone, name))
    return names


def names_outside(module: nn.Module, parts: Sequence[nn.Module], prefix: str = "") -> list[str]:
    """Name the largest sub-modules that have nothing in common with some parts of a module.

    Args:
        module (nn.Module): The module.
        parts (Sequence[nn.Module]): Some of its sub-modules, or containers made of them.
        prefix (str): Put before the names. Defaults to none.

    Returns:
        list[str]: Names as in ``module.named_modules()``.
    """
    ids = {id(inner) for part in parts for inner in part.modules()}
    names = []
    for name, child in module.named_children():
        if id(child) in ids:
            continue
        if ids.isdisjoint(id(part) for part in child.modules()):
            names.append(prefix + name)
        else:
            names += names_outside(child, parts, f"{prefix}{name}.")
    return names
