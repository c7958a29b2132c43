"""Newly initialised copies of modules."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch.nn as nn
from mmengine.model import BaseModule, initialize

InitConfig: TypeAlias = dict | Sequence[dict] | None


def fresh_copy(
    module: nn.Module,
    change: Callable[[Any], None] | None = None,
    init_cfg: InitConfig = None,
    left_out: Sequence[nn.Module] = (),
) -> nn.Module:
    """Return an independent, newly initialised copy of a backbone or another module.

    Frozen stages are trainable again and pretrained weights are not loaded: the copy starts from random weights, as
    the module's own ``init_weights`` draws them.

    Args:
        module (nn.Module): The module to copy.
        change (Callable, optional): Changes the copy in place before it is initialised.
        init_cfg (dict | Sequence[dict], optional): How the model that the module belongs to initialises all of its
            parts, before they do it themselves.
        left_out (Sequence[nn.Module]): Sub-modules that become an ``nn.Identity``.

    Returns:
        nn.Module: The copy, in training mode.
    """
    duplicate = copy.deepcopy(module, {id(part): nn.Identity() for part in left_out})
    if change is not None:
        change(duplicate)
    for part in duplicate.modules():
        if callable(reset := getattr(part, "reset_parameters", None)):
            reset()
        if isinstance(part, BaseModule):
            part.is_init = False
            part.init_cfg = without_pretrained(part.init_cfg)
    duplicate.requires_grad_(True)
    if init_cfg := without_pretrained(init_cfg):
        initialize(duplicate, init_cfg)
    if isinstance(duplicate, BaseModule):
        duplicate._dump_init_info = lambda: None  # the copy is taken apart, a report of its weights only confuses
        duplicate.init_weights()
    nn.Module.train(duplicate)  # a backbone's own train() may freeze stages again
    return duplicate


def without_pretrained(init_cfg: InitConfig) -> InitConfig:
    """Take checkpoints to load out of an ``init_cfg``."""
    if isinstance(init_cfg, dict):
        return None if init_cfg.get("type") == "Pretrained" else init_cfg
    if isinstance(init_cfg, list | tuple):
        return [item for item in init_cfg if item.get("type") != "Pretrained"]
    return init_cfg
