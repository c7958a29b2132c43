"""Make layers smaller by taking channels out of their weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmkdprune.arguments import checked

from ..tracing.ownership import is_convolution
from .attributes import set_sizes
from .plan import Plan, PlanError, fingerprint
from .removal import CompactionError

# Attributes of containers that say how many channels come out of them.
_OUTPUT_ATTRIBUTES = ("out_channels", "feat_dim")


class ScatterBatchNorm2d(nn.BatchNorm2d):
    """A BatchNorm on few channels that gives many: its own at some indices, zeros at the others.

    It stands behind the last convolution of a residual block whose zero filters cannot be removed, because the sum
    that they go into has other terms.

    Args:
        norm (nn.BatchNorm2d): The BatchNorm to replace, which has the few channels already.
        channels (int): Number of channels that come out, C.
        indices (Sequence[int]): Where its own channels go, (C_own,).
    """

    scatter_to: Tensor

    def __init__(self, norm: nn.BatchNorm2d, channels: int, indices: Sequence[int]) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        for name, value in (*norm._parameters.items(), *norm._buffers.items()):
            setattr(self, name, value)
        self.training = norm.training
        self.channels = channels
        device = norm.weight.device if norm.affine else None
        self.register_buffer("scatter_to", torch.tensor(list(indices), device=device), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalise (N, C_own, H, W) and scatter to (N, C, H, W)."""
        narrow = super().forward(inputs)
        if torch.onnx.is_in_onnx_export():
            # ONNX's scatter would fix the number of images: gather, with one more channel of zeros to take from.
            sources = torch.full((self.channels,), self.num_features, device=narrow.device)
            sources[self.scatter_to] = torch.arange(self.num_features, device=narrow.device)
            return nn.functional.pad(narrow, (0, 0, 0, 0, 0, 1)).index_select(1, sources)
        wide = narrow.new_zeros((len(narrow), self.channels, *narrow.shape[2:]))
        return wide.index_copy_(1, self.scatter_to, narrow)


@checked
def apply_plan(network: nn.Module, plan: Plan) -> nn.Module:
    """Make a dense network compact, in place, by index surgery alone: no forward pass, no tracing.

    Args:
        network (nn.Module): Of the architecture that the plan was made for.
        plan (Plan): What stays.

    Returns:
        nn.Module: The network. Parameters are new objects: build the optimizer afterwards.

    Raises:
        PlanError: If the plan is for another architecture.
    """
    check_architecture(network, plan)
    # Bottom up, so that a replaced BatchNorm has its channels already.
    for name, entry in plan.layers.items():
        shrink(network.get_submodule(name), entry.get("out"), entry.get("in"))
        if (scatter := entry.get("scatter")) is not None:
            parent, _, attribute = name.rpartition(".")
            norm = ScatterBatchNorm2d(network.get_submodule(name), scatter["of"], scatter["to"])  # type: ignore[arg-type]
            setattr(network.get_submodule(parent), attribute, norm)
    set_widths(network, plan)
    return network


def set_widths(network: nn.Module, plan: Plan) -> bool:
    """Tell composed modules how many channels come out of them and their parts.

    That goes into the attributes that the plan names, and into those that PyTorch and OpenMMLab give the number; a
    class with a method ``set_widths(widths: dict[str, int])`` is told the new widths of its parts.

    Returns:
        bool: Whether any module was told something.
    """
    told = set_sizes(network, plan.attributes)
    for name, (before, after) in plan.widths.items():
        container = network.get_submodule(name)
        for attribute in _OUTPUT_ATTRIBUTES:
            if getattr(container, attribute, None) == before:
                try:
                    setattr(container, attribute, after)
                    told = True
                except AttributeError:  # a property that follows the layers by itself
                    continue
    for name, module in network.named_modules():
        if callable(tell := getattr(module, "set_widths", None)):
            prefix = f"{name}." if name else ""
            widths = {part: after for part, (_, after) in plan.widths.items()}
            tell({part.removeprefix(prefix): after for part, after in widths.items() if part.startswith(prefix)})
            told = True
    return told


def check_architecture(network: nn.Module, plan: Plan) -> None:
    """Refuse a network that the plan was not made for.

    Raises:
        PlanError: With the first layer that differs.
    """
    if fingerprint(network) == plan.architectures.get(""):
        return
    found = "some layers have other names or shapes"
    modules = dict(network.named_modules())
    for name, entry in plan.layers.items():
        if name not in modules:
            found = f"it has no layer {name}"
            break
        sizes = _sizes(modules[name])
        wrong = next((side for side in ("out", "in") if side in entry and sizes.get(side) != entry[side]["of"]), None)
        if wrong:
            found = f"{name} has {sizes.get(wrong)} {wrong} channels, the plan wants {entry[wrong]['of']}"
            break
    raise PlanError(
        f"the plan was made for another architecture than this {type(network).__name__}: {found}. Give the dense "
        "config that was pruned (same depth, widths and input channels)"
    )


@torch.no_grad()
def shrink(module: nn.Module, out: Mapping[str, Any] | None, read: Mapping[str, Any] | None) -> None:
    """Keep some channels of a layer.

    Args:
        module (nn.Module): A convolution, a linear layer, or anything whose parameters have one value a channel.
        out (Mapping | None): Entry ``out`` of a plan.
        read (Mapping | None): Entry ``in`` of a plan.
    """
    if is_convolution(module) or isinstance(module, nn.Linear):
        _shrink_weight(module, out, read)
        return
    if out is None:
        return
    for name, value in (*module._parameters.items(), *module._buffers.items()):
        if value is not None and value.ndim == 1 and len(value) == out["of"]:
            _replace(module, name, _take(value, 0, out["kept"]))
    for attribute in ("num_features", "num_parameters"):
        if getattr(module, attribute, None) == out["of"]:
            setattr(module, attribute, len(out["kept"]))


def _shrink_weight(module: Any, out: Mapping[str, Any] | None, read: Mapping[str, Any] | None) -> None:
    weight: Tensor = module.weight
    groups = getattr(module, "groups", 1)
    depthwise = groups > 1 and groups == len(weight) and weight.shape[1] == 1
    names = ("out_features", "in_features") if isinstance(module, nn.Linear) else ("out_channels", "in_channels")
    if read is not None:
        weight = _take_inputs(weight, read["kept"], groups)
        setattr(module, names[1], len(read["kept"]))
    if out is not None:
        weight = _take(weight, 0, out["kept"])
        setattr(module, names[0], len(out["kept"]))
        if module.bias is not None:
            _replace(module, "bias", _take(module.bias, 0, out["kept"]))
        if depthwise:
            module.groups = module.in_channels = len(out["kept"])
    _replace(module, "weight", weight)


def _take_inputs(weight: Tensor, kept: Sequence[int], groups: int) -> Tensor:
    """Columns of a weight; every group of a grouped convolution has its own."""
    if groups == 1:
        return _take(weight, 1, kept)
    size = weight.shape[1]
    rows = weight.unflatten(0, (groups, -1))
    indices = [[index - group * size for index in kept if index // size == group] for group in range(groups)]
    return torch.stack([_take(rows[group], 1, indices[group]) for group in range(groups)]).flatten(0, 1)


def _take(tensor: Tensor, dim: int, indices: Sequence[int]) -> Tensor:
    return tensor.detach().index_select(dim, torch.tensor(indices, device=tensor.device))


def _replace(module: nn.Module, name: str, value: Tensor) -> None:
    old = getattr(module, name)
    if isinstance(old, nn.Parameter):
        value = nn.Parameter(value, requires_grad=old.requires_grad)
    setattr(module, name, value)


def _sizes(module: nn.Module) -> dict[str, int]:
    if is_convolution(module):
        return {"out": module.out_channels, "in": module.in_channels}  # type: ignore[dict-item]
    if isinstance(module, nn.Linear):
        return {"out": module.out_features, "in": module.in_features}
    return {"out": next((len(value) for value in module._parameters.values() if value is not None), 0)}


def skeleton(network: nn.Module) -> nn.Module:
    """A copy with modules of its own that shares all parameters and buffers with the original."""
    return deep_copy(network, {id(value): value for value in (*network.parameters(), *network.buffers())})


def deep_copy(network: nn.Module, shared: dict[int, Any] | None = None) -> nn.Module:
    """A copy of a network, also of one that keeps computed tensors (old-style weight norm) or was partly scripted.

    Args:
        network (nn.Module): The network.
        shared (dict[int, Any], optional): Objects by id that the copy has in common with it.

    Raises:
        CompactionError: If it holds something that cannot be copied.
    """
    memo = dict(shared or {})
    for module in network.modules():
        for value in list(vars(module).values()):
            if isinstance(value, Tensor) and value.grad_fn is not None:
                memo[id(value)] = value.detach().clone()
    try:
        with torch.no_grad():
            copied = copy.deepcopy(network, memo)
        for own, other in zip(copied.parameters(), network.parameters(), strict=True):
            own.requires_grad_(other.requires_grad)  # scripted parts are copied without
        return copied
    except Exception as error:
        raise CompactionError(
            f"{type(network).__name__} cannot be copied ({type(error).__name__}: {error}): it must not hold open "
            "files, locks or tensors that carry gradients"
        ) from error


def unshare(network: nn.Module, original: nn.Module) -> None:
    """Give a copy its own parameters and buffers wherever it still shares them."""
    own: dict[int, Tensor] = {}
    shared = {id(value) for value in (*original.parameters(), *original.buffers())}
    for module in network.modules():
        for name, value in (*module._parameters.items(), *module._buffers.items()):
            if value is not None and id(value) in shared:
                if id(value) not in own:
                    _replace(module, name, value.detach().clone())
                    own[id(value)] = getattr(module, name)
                setattr(module, name, own[id(value)])
