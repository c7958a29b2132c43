"""Fold BatchNorms into the convolutions and linear layers before them, where nothing else reads what these compute."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils.weak import WeakIdKeyDictionary

from ..forward import Forward
from ..tracing.leaves import leaves
from ..tracing.operators import BATCH_NORMS, VIEWS
from ..tracing.ownership import Owner, Ownership
from ..tracing.watcher import Call, Watcher

# Classes derived from BatchNorm do something else than to normalise if they have a forward of their own.
_FORWARDS = (_BatchNorm.forward, nn.SyncBatchNorm.forward)
# Of a BatchNorm's operator: position of each tensor of the module.
_NORM_TENSORS = {"weight": 1, "bias": 2, "running_mean": 3, "running_var": 4}


class NormReaders(Watcher):
    """Notes which BatchNorms read the outputs of which layers in a forward pass.

    Args:
        network (nn.Module): Whose parameters are met.

    Attributes:
        readers: By layer, what reads its output: names of BatchNorms, or '' for anything else.
        sources: By BatchNorm, what it reads: names of layers, or '' for anything else.
        calls: How often each layer is called.
        misused: Modules of which a parameter is used in another way than the module itself does.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.readers: dict[str, list[str]] = {}
        self.sources: dict[str, list[str]] = {}
        self.calls: dict[str, int] = {}
        self.misused: set[str] = set()
        self._owned = Ownership(network)
        self._outputs: Any = WeakIdKeyDictionary()  # raw output of a layer: (its name, dimension of the channels)
        self._transposed: Any = WeakIdKeyDictionary()  # weights of linear layers

    def watch(self, call: Call) -> None:
        """Run the operator, then note who reads and who is read."""
        for value in call.tensors:
            self._owned.note(value)
        norm, layer = self._norm(call), self._layer(call)
        call.run()
        if norm is not None:
            source = self._outputs.get(call.args[0])
            is_source = source is not None and source[1] == 1
            self.sources.setdefault(norm, []).append(source[0] if is_source else "")
            if source is not None:
                self.readers[source[0]].append(norm if is_source else "")
            return
        if layer is not None:
            name, images = layer
            self._note_read([images])
            self.calls[name] = self.calls.get(name, 0) + 1
            self.readers.setdefault(name, [])
            dim = 1 if call.name == "convolution" else call.result.ndim - 1
            self._outputs[call.result] = (name, dim)
            return
        if self._is_view(call):
            return
        self._note_read(call.tensors)
        owner = self._owned.get(call.first)
        if call.name in ("t", "transpose", "permute") and owner is not None and owner.attribute == "weight":
            self._transposed[call.result] = owner
            return
        for value in call.tensors:
            found = self._owner(value)
            if found is not None:
                self.misused.add(found.name)

    def finish(self, outputs: list[tuple[str, Any]]) -> None:
        """Note what the network returned."""
        self._note_read([value for _, value in outputs])

    def _note_read(self, values: list[Any]) -> None:
        for value in values:
            if isinstance(value, Tensor) and value in self._outputs:
                self.readers[self._outputs[value][0]].append("")

    def _owner(self, value: Any) -> Owner | None:
        if isinstance(value, Tensor) and value in self._transposed:
            return self._transposed[value]
        return self._owned.get(value)

    def _layer(self, call: Call) -> tuple[str, Tensor] | None:
        """Name of the layer that an operator is a call of, and what it reads."""
        args = (*call.args, None, None, None)
        kind: type[nn.Module] = nn.Linear
        if call.name == "convolution":
            (images, weight, bias), kind = args[:3], _ConvNd
        elif call.name == "addmm":
            images, weight, bias = args[1], args[2], args[0]
        elif call.name in ("mm", "linear"):
            images, weight, bias = args[:3]
        else:
            return None
        owner = self._owner(weight)
        if owner is None or owner.attribute != "weight" or not isinstance(owner.module, kind):
            return None
        is_own = bias is owner.module.bias or self._is_of(bias, owner.module, "bias")
        return (owner.name, images) if is_own and not isinstance(owner.module, _ConvTransposeNd) else None

    def _norm(self, call: Call) -> str | None:
        """Name of the BatchNorm that an operator is a call of, with its own statistics."""
        if call.name not in BATCH_NORMS:
            return None
        owner = self._owned.get(call.args[3]) if len(call.args) > 3 else None
        if owner is None or type(owner.module).forward not in _FORWARDS:
            return None
        own = owner.module
        is_own = all(self._is_of(call.args[at], own, name) for name, at in _NORM_TENSORS.items())
        is_training = call.name != "_native_batch_norm_legit_no_training" and call.args[5] is True
        return owner.name if is_own and not is_training else None

    def _is_of(self, value: Any, module: nn.Module, attribute: str) -> bool:
        if value is None or getattr(module, attribute) is None:
            return value is None and getattr(module, attribute) is None
        owner = self._owned.get(value)
        return owner is not None and owner.module is module and owner.attribute == attribute

    def _is_view(self, call: Call) -> bool:
        """Whether an operator only regroups the places of a linear layer's output."""
        source = self._outputs.get(call.first) if call.first is not None else None
        if source is None or call.name not in VIEWS or source[1] != call.args[0].ndim - 1:
            return False
        if not call.result.ndim or call.result.shape[-1] != call.args[0].shape[-1]:
            return False
        self._outputs[call.result] = (source[0], call.result.ndim - 1)
        return True


def foldable(network: nn.Module, part: str, forward: Forward, images: Tensor) -> tuple[dict[str, str], dict[str, str]]:
    """Find the BatchNorms that can be folded, by one forward pass.

    Args:
        network (nn.Module): In evaluation mode.
        part (str): Name of the part whose BatchNorms are folded; '' for all.
        forward (Callable): ``forward(network, images)`` runs it.
        images (Tensor): Input, (B, C, H, W).

    Returns:
        tuple[dict[str, str], dict[str, str]]: The layer that each BatchNorm can be folded into, and why the others
        stay, both by the BatchNorm's name.
    """
    readers = NormReaders(network)
    with torch.no_grad(), readers:
        outputs = leaves(forward(network, images))
    readers.finish(outputs)
    names: dict[int, int] = {}
    for _, module in network.named_modules(remove_duplicate=False):
        names[id(module)] = names.get(id(module), 0) + 1
    shared = {name for name, module in network.named_modules() if names[id(module)] > 1} | _sharing(network)
    folded, left = {}, {}
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm) and _within(name, part):
            reason = _obstacle(network, name, readers, shared)
            if reason:
                left[name] = reason
            else:
                folded[name] = readers.sources[name][0]
                if not _within(folded[name], part):
                    left[name] = f"{folded.pop(name)} lies outside"
    return folded, left


def _within(name: str, part: str) -> bool:
    return not part or name == part or name.startswith(f"{part}.")


def _obstacle(network: nn.Module, norm: str, readers: NormReaders, shared: set[str]) -> str:
    """Why a BatchNorm cannot be folded; empty if it can."""
    sources = readers.sources.get(norm, [])
    if not sources:
        return "it is not used, or does something else than to normalise with its statistics"
    if len(sources) > 1:
        return "it is used several times"
    layer = sources[0]
    if not layer:
        return "it does not read the output of a convolution or linear layer itself"
    if readers.calls[layer] > 1:
        return f"{layer} is used several times"
    if readers.readers[layer] != [norm]:
        return f"something else reads the output of {layer}, too"
    for name in (layer, norm):
        if name in readers.misused or name in shared:
            return f"{name} shares its parameters, or they are read elsewhere"
        module = network.get_submodule(name)
        if module._forward_hooks or module._forward_pre_hooks or nn.utils.parametrize.is_parametrized(module):
            return f"{name} has hooks or computed parameters"
    return ""


def _sharing(network: nn.Module) -> set[str]:
    """Modules that have a parameter in common with another one."""
    holders: dict[int, list[str]] = {}
    for name, module in network.named_modules():
        for value in (*module._parameters.values(), *module._buffers.values()):
            if value is not None:
                holders.setdefault(id(value), []).append(name)
    return {name for names in holders.values() if len(set(names)) > 1 for name in names}


@torch.no_grad()
def fold(network: nn.Module, norm: str, layer: str) -> None:
    """Fold a BatchNorm into the layer before it, in place; an ``nn.Identity`` takes its place.

    With scale ``s = gamma / sqrt(var + eps)`` the weight becomes ``s W`` and the bias ``s (b - mean) + beta``.

    Args:
        network (nn.Module): The network.
        norm (str): Name of a BatchNorm that keeps statistics.
        layer (str): Name of a convolution (not a transposed one) or linear layer of as many filters.
    """
    parent, _, attribute = norm.rpartition(".")
    module: Any = network.get_submodule(norm)
    target: Any = network.get_submodule(layer)
    scale = (module.running_var + module.eps).rsqrt()
    scale = scale if module.weight is None else scale * module.weight
    shift = -module.running_mean if target.bias is None else target.bias - module.running_mean
    bias = shift * scale if module.bias is None else shift * scale + module.bias
    weight = target.weight * scale.view(-1, *(1,) * (target.weight.ndim - 1))
    for name, value in (("weight", weight), ("bias", bias)):
        setattr(target, name, nn.Parameter(value.to(target.weight.dtype), target.weight.requires_grad))
    setattr(network.get_submodule(parent), attribute, nn.Identity())
