"""Fuse a network for deployment: re-parameterise its blocks, fold its BatchNorms, prove that nothing changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmkdprune.arguments import checked

from ..checks import make_images
from ..forward import Forward, run_deployable
from ..modes import set_modes
from ..tracing.leaves import UnknownOutputError, leaves
from .differences import difference
from .equality import TOLERANCES, refuse_nothing
from .folding import foldable
from .fusion_record import METHODS, Fusion, apply_fusion
from .probes import Probe, modes_of, other_sizes, random_images, seeded
from .removal import CompactionError
from .surgery import deep_copy


@checked
def fuse(
    network: nn.Module,
    example_input: Tensor | Sequence[int],
    part: str = "",
    forward: Forward = run_deployable,
) -> tuple[nn.Module, Fusion]:
    """Re-parameterise and fold a network for deployment.

    Blocks with a method of their own (``switch_to_deploy`` of RepVGG, MobileOne, LeViT and RIFormer, ``merge_kernel``
    of RepLKNet, ``local_inject`` of RepMLP) are re-parameterised by it. Then a BatchNorm is folded into the convolution
    or linear layer before it if nothing else reads what that computes, which is seen in a forward pass. A block whose
    own method changes what it computes is left as it is; :attr:`Fusion.left` says so.

    Args:
        network (nn.Module): Trained, dense or compact; unchanged.
        example_input (Tensor | Sequence[int]): Image batch (B, C, H, W) or its shape (C, H, W) or (B, C, H, W).
        part (str): Name of the part to fuse, for example ``'backbone'``. Defaults to '', the whole network.
        forward (Callable): ``forward(network, images)`` runs the network. Defaults to
            :func:`~mmkdprune.pruning.forward.run_deployable`.

    Returns:
        tuple[nn.Module, Fusion]: The fused network, with weights of its own, in evaluation mode: it refuses forward
        passes in training mode. And the record that makes it from the network before, empty if nothing could be fused;
        ``check`` holds the sizes of the random images and the largest relative error, in double precision where the
        network allows it.

    Raises:
        CompactionError: If the network fails on the images, or the fused one computes something else.
        ValueError: If an argument is out of range.

    Source: Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", CVPR 2021, section 3.3.
    """
    if part not in dict(network.named_modules()):
        raise ValueError(f"part {part!r} is no module of this {type(network).__name__}; give '' for the whole network")
    images = make_images("example_input", example_input, network)
    own = {value.dtype for value in network.parameters() if value.is_floating_point()}
    if len(own) > 1:
        raise CompactionError(
            f"{type(network).__name__} has parameters of several types ({', '.join(map(str, own))}): convert it to one "
            "(network.float()) before it is fused"
        )
    before, probes = _passes(network, images, forward)
    fusion = Fusion(part=part)
    _deploy(before, fusion, forward, probes[0].images)
    deployed = apply_fusion(deep_copy(before), Fusion(deployed=fusion.deployed))
    set_modes(deployed, modes_of(deployed, False))
    fusion.folded, left = foldable(deployed, part, forward, probes[0].images)
    fusion.left.update(left)
    fused = apply_fusion(deep_copy(before), fusion)
    set_modes(fused, modes_of(fused, False))
    fusion.check = _proof(fused, forward, probes)
    fused = fused.to(images.dtype)
    fused.eval()  # its tables in its own precision
    return fused, fusion


def _passes(network: nn.Module, images: Tensor, forward: Forward) -> tuple[nn.Module, list[Probe]]:
    """A copy in evaluation mode, in double precision if possible, and its passes on random images of two sizes."""
    failure: Exception | None = None
    for dtype in dict.fromkeys((torch.float64, images.dtype)):
        copied = deep_copy(network).to(dtype)
        copied.eval()  # some networks compute tables here, as LeViT does
        set_modes(copied, modes_of(copied, False))
        probes: list[Probe] = []
        for size in [(images.shape[2], images.shape[3]), *other_sizes(images)]:
            probe = Probe(random_images(images, size, 1.0, dtype))
            try:
                with torch.no_grad(), seeded(probe.images):
                    probe.outputs = leaves(forward(copied, probe.images))
            except UnknownOutputError as error:
                raise CompactionError(f"{type(network).__name__}: {error}") from error
            except Exception as error:
                if not probes:
                    failure = error
                    break
                continue  # it takes images of one size only
            refuse_nothing(probe, network)
            if probe.size not in (known.size for known in probes):
                probes.append(probe)
            if len(probes) == 2:
                break
        if probes:
            return copied, probes
    raise CompactionError(
        f"{type(network).__name__} fails on images of shape {tuple(images.shape)} ({type(failure).__name__}: "
        f"{failure}): give an example_input that it takes"
    ) from failure


def _deploy(network: nn.Module, fusion: Fusion, forward: Forward, images: Tensor) -> None:
    """Note the modules that re-parameterise themselves and compute the same afterwards, from the inside out."""
    modules = {
        name: module
        for name, module in network.named_modules()
        if not fusion.part or name == fusion.part or name.startswith(f"{fusion.part}.")
    }
    methods = {
        name: next((method for method in METHODS if callable(getattr(module, method, None))), "")
        for name, module in modules.items()
    }
    candidates = [name for name in modules if methods[name]]
    with _observed(network, candidates) as calls, torch.no_grad(), seeded(images):
        forward(network, images)
    for name in reversed(candidates):  # parts of a module are named after it
        prefix = f"{name}." if name else ""
        inside = [other for other in candidates if other != name and other.startswith(prefix)]
        reason = next((f"{other} in it is left" for other in inside if other in fusion.left), "")
        reason = reason or _deployment_fault(modules[name], methods[name], calls.get(name, []))
        if reason:
            fusion.left[name] = f"{methods[name]}: {reason}"
        else:
            fusion.deployed[name] = methods[name]


def _deployment_fault(module: nn.Module, method: str, calls: list[tuple[Any, Any, Any]]) -> str:
    """What is wrong with a module that has re-parameterised itself; empty if it computes the same."""
    if not calls:
        return "it is not used"
    copied = deep_copy(module)
    try:
        with torch.no_grad():
            getattr(copied, method)()
            set_modes(copied, modes_of(copied, False))
            worst = max(_error(leaves(outputs), leaves(copied(*args, **kwargs))) for args, kwargs, outputs in calls)
    except Exception as error:
        return f"it fails ({type(error).__name__}: {str(error)[:200]})"
    if worst <= _tolerance(calls[0][2]):
        return ""
    return f"it changes what comes out (relative difference {worst:.2g})"


@contextmanager
def _observed(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, list[tuple[Any, Any, Any]]]]:
    """Note, while the network runs, arguments and outputs of some modules."""
    calls: dict[str, list[tuple[Any, Any, Any]]] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, outputs: Any) -> None:
            calls.setdefault(name, []).append((_kept(args), _kept(kwargs), _kept(outputs)))

        return hook

    handles = [network.get_submodule(name).register_forward_hook(note(name), with_kwargs=True) for name in names]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _kept(value: Any) -> Any:
    """The same with copies of tensors, which later operators may write to."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _kept(item) for key, item in value.items()}
    return type(value)(map(_kept, value)) if type(value) in (list, tuple) else value


def _proof(fused: nn.Module, forward: Forward, probes: list[Probe]) -> dict[str, Any]:
    """Compare the fused network with the passes of the one before."""
    worst = 0.0
    for probe in probes:
        with torch.no_grad(), seeded(probe.images):
            found = leaves(forward(fused, probe.images))
        error = _error(probe.outputs, found)
        if not error <= _tolerance(probe.outputs):
            raise CompactionError(
                f"{type(fused).__name__} cannot be fused: outputs differ by {error:.2g} ({probe.describe()}), so its "
                "code reads weights or statistics in another way than its layers do. Compact it without fuse"
            )
        worst = max(worst, error)
    return {
        "sizes": [probe.size for probe in probes],
        "max_relative_error": worst,
        "dtype": str(probes[0].images.dtype).removeprefix("torch."),
    }


def _error(expected: list[tuple[str, Any]], found: list[tuple[str, Any]]) -> float:
    """Largest relative difference of two outputs."""
    if [path for path, _ in expected] != [path for path, _ in found]:
        return float("inf")
    return max((difference(one, other) for (_, one), (_, other) in zip(expected, found, strict=True)), default=0.0)


def _tolerance(outputs: Any) -> float:
    """By the precision that outputs have."""
    types = {value.dtype for _, value in leaves(outputs) if isinstance(value, Tensor) and value.is_floating_point()}
    return max((TOLERANCES.get(dtype, 0.0) for dtype in types), default=0.0)
