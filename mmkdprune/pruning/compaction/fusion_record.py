"""The record of a fusion: plain data by which the network of a config becomes the fused one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from mmkdprune.arguments import checked

from .folding import fold

# Methods by which modules re-parameterise themselves, in place: MMPretrain's RepVGG, MobileOne, LeViT and RIFormer;
# RepLKNet; RepMLP. A record names no others.
METHODS = ("switch_to_deploy", "merge_kernel", "local_inject")
TRAINING_MESSAGE = (
    "this network was fused for deployment: it has no BatchNorms left to train with. Compact without --fuse "
    "(mmkdprune.pruning.compact without fuse) to fine-tune; to run it, call eval() first"
)


class FusionRecordError(ValueError):
    """A record of a fusion is not valid, or is for another network."""


@checked
@dataclass
class Fusion:
    """What was fused.

    Attributes:
        part: Name of the part of the network that was fused; '' for all of it.
        deployed: The method of each module that re-parameterised itself, by module name, in the order of the calls.
        folded: The layer that each BatchNorm was folded into, by the BatchNorm's name.
        left: Why modules and BatchNorms stay as they are, by name.
        check: What the comparison with the network before gave.
    """

    part: str = ""
    deployed: dict[str, str] = field(default_factory=dict)
    folded: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    check: dict[str, Any] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was fused."""
        return not self.deployed and not self.folded

    def to_dict(self) -> dict[str, Any]:
        """Plain form."""
        return {name: value if isinstance(value, str) else dict(value) for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, content: Any) -> Fusion:
        """Read the plain form.

        Raises:
            FusionRecordError: If it does not make sense; the message names the field.
        """
        if not isinstance(content, Mapping) or not isinstance(content.get("part"), str):
            raise FusionRecordError(f"expected a dict with part, deployed and folded, got {content!r:.80}")
        if unknown := set(content) - {"part", "deployed", "folded", "left", "check"}:
            raise FusionRecordError(f"it has unknown fields, {', '.join(sorted(map(str, unknown)))}")
        for name in ("deployed", "folded", "left", "check"):
            value = content.get(name)
            texts = isinstance(value, Mapping) and (
                name == "check" or all(isinstance(text, str) for pair in value.items() for text in pair)
            )
            if not texts:
                raise FusionRecordError(f"{name}: expected a dict of names, got {value!r:.80}")
        for module, method in content["deployed"].items():
            if method not in METHODS:
                raise FusionRecordError(f"deployed: {module!r} has method {method!r}, not one of {', '.join(METHODS)}")
        return cls(
            part=content["part"],
            **{name: dict(content[name]) for name in ("deployed", "folded", "left", "check")},
        )

    def within(self, part: str) -> Fusion | None:
        """The record of one part of the network, with names within that part; None if nothing in it was fused."""

        def inside(name: str) -> str | None:
            if name == part:
                return ""
            return name.removeprefix(f"{part}.") if name.startswith(f"{part}.") else None

        def names(entries: Mapping[str, str], also_values: bool = False) -> dict[str, str]:
            return {
                own: (inside(value) or "") if also_values else value
                for name, value in entries.items()
                if (own := inside(name)) is not None
            }

        record = Fusion(
            inside(self.part) or "", names(self.deployed), names(self.folded, True), names(self.left), self.check
        )
        return None if record.is_empty else record


@torch.no_grad()
def apply_fusion(network: nn.Module, fusion: Fusion) -> nn.Module:
    """Fuse a network by the record of a fusion, in place: no forward pass, no tracing.

    Args:
        network (nn.Module): With the layers that the network of the record had before.
        fusion (Fusion): The record.

    Returns:
        nn.Module: The network, which refuses forward passes in training mode.

    Raises:
        FusionRecordError: If the record is for another network.
    """
    if fusion.is_empty:
        return network
    for name, method in fusion.deployed.items():
        call = getattr(_module(network, name), method, None)
        if method not in METHODS or not callable(call):
            raise FusionRecordError(f"{name or 'the network'} cannot be deployed by {method!r}; {_OTHER}")
        call()
    for norm, layer in fusion.folded.items():
        module, target = _module(network, norm), cast(Any, _module(network, layer))
        is_layer = isinstance(target, (_ConvNd, nn.Linear)) and not isinstance(target, _ConvTransposeNd)
        fits = is_layer and isinstance(module, _BatchNorm) and module.num_features == len(target.weight)
        if not fits or module.running_mean is None:
            raise FusionRecordError(f"BatchNorm {norm} cannot be folded into {layer}; {_OTHER}")
        fold(network, norm, layer)
    refuse_training(_module(network, fusion.part))
    return network


_OTHER = "the record of the fusion is for another network"


def _module(network: nn.Module, name: str) -> nn.Module:
    module = dict(network.named_modules()).get(name)
    if module is None:
        raise FusionRecordError(f"there is no module {name!r} in this {type(network).__name__}; {_OTHER}")
    return module


def refuse_training(module: nn.Module) -> None:
    """Make a fused network refuse forward passes in training mode."""
    if _check_mode not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(_check_mode)


def _check_mode(module: nn.Module, inputs: Any) -> None:
    if module.training:
        raise RuntimeError(TRAINING_MESSAGE)
