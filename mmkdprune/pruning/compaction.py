"""From a pruned network, as large as before, to a physically small one that computes the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import checked
from .channel_flow import follow_channels
from .checks import check_count, running_on
from .equality import compare, observed_widths
from .flow_record import FlowRecord
from .forward import Forward, run_deployable
from .modes import evaluating
from .plan import Plan, fingerprints
from .removal import CompactionError, Removal, find_removal
from .selection import find_scope
from .surgery import apply_plan, set_widths, skeleton, unshare

__all__ = ["CompactionError", "compact"]


@checked
def compact(
    model: nn.Module,
    example_input: Tensor | Sequence[int],
    masks: Mapping[str, Tensor] | None = None,
    check: bool = True,
    divisor: int = 1,
    scatter: bool = False,
    forward: Forward = run_deployable,
) -> tuple[nn.Module, Plan]:
    """Remove the zero filters of a pruned network.

    A channel is removed when it is zero at every layer that reads it. That is found out channel by channel in one
    forward pass, so masks of both couplings, and zeros however they came about, are treated alike: with ``group``
    masks whole stages become narrower, with ``independent`` masks the layers inside of blocks. BatchNorms, depthwise
    convolutions, squeeze-and-excitation, concatenations and flattening follow; grouped convolutions keep equally large
    groups. Where channels are normalised together (LayerNorm), split, shuffled or padded in number, all stay.

    Args:
        model (nn.Module): Backbone, classifier, detector or segmentor; unchanged, also its mode.
        example_input (Tensor | Sequence[int]): Image batch (B, C, H, W) or its shape (C, H, W) or (B, C, H, W).
        masks (Mapping[str, Tensor], optional): What is pruned, as :attr:`FilterPruner.masks`: layer name (within the
            model or its backbone) to bool, (C_out,), True = pruned. These filters are taken as zero. Defaults to
            None, the zeros that are in the weights.
        check (bool): Compare with the pruned network on random images of two sizes. Defaults to True.
        divisor (int): Round the number of channels that a layer keeps up to a multiple of this. Defaults to 1.
        scatter (bool): Also shrink convolutions that end a residual branch while the sum keeps its width
            (``independent`` masks). Defaults to False: it saves arithmetic, but seldom time.
        forward (Callable): ``forward(model, images)`` runs the model. Defaults to
            :func:`~mmkdprune.pruning.forward.run_deployable`.

    Returns:
        tuple[nn.Module, Plan]: The small network, with weights of its own, in the model's mode; and the plan that
        makes it from the dense architecture. ``plan.check`` holds the sizes and the largest relative error.

    Raises:
        CompactionError: If nothing can be removed, filters cannot be removed exactly, masks do not belong to the model,
            or the small network differs by more than 1e-5; the message names the layer.
        ValueError: If an argument is out of range.

    Source: the exactness conditions follow from the operators; that the authors' ``get_small_model`` ignores the
    constants behind inner BatchNorms is one reason to check.
    """
    check_count("divisor", divisor, 1)
    _refuse_training_parts(model)
    images = _images(model, example_input)
    with evaluating(model):
        dense = model if masks is None else masked_copy(model, masks)
        with observed_widths(dense) as before, running_on("example_input", images):
            record = _follow(dense, forward, images)
        removal = find_removal(record, divisor)
        layers = _entries(removal)
        if scatter:
            layers = add_scatter(layers, record, dense)
        if not layers:
            raise CompactionError(_nothing_to_remove(model, record, removal))
        _refuse_shared(model, layers)
        plan = Plan(layers, fingerprints(model), left=removal.left, network=type(model).__name__, divisor=divisor)
        small = apply_plan(skeleton(dense), plan)
        with observed_widths(small) as after:
            _run(small, forward, images)
        plan.widths = {name: (before[name], after[name]) for name in after if before.get(name) != after[name]}
        set_widths(small, plan)
        unshare(small, model)
        if check:
            plan.check = compare(dense, small, plan, images, forward)
    modes = {name: module.training for name, module in model.named_modules()}
    for name, module in small.named_modules():
        module.training = modes[name]
    return small, plan


def masked_copy(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """A copy whose masked filters are zero; everything else is shared with the model.

    Args:
        model (nn.Module): The model.
        masks (Mapping[str, Tensor]): As for :func:`compact`.

    Raises:
        CompactionError: If a mask does not belong to the model.
    """
    if not masks:
        raise CompactionError("masks is empty: give FilterPruner.masks, or None to find the zeros in the weights")
    copied = skeleton(model)
    modules = dict(copied.named_modules())
    scope, _ = find_scope(model, None)
    for name, mask in masks.items():
        module = modules.get(name) or modules.get(f"{scope}.{name}")
        weight = getattr(module, "weight", None)
        if module is None or not isinstance(weight, Tensor):
            raise CompactionError(
                f"masks: there is no layer {name!r} in this {type(model).__name__}; these masks are of another network"
            )
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != weight.shape[:1]:
            found = f"{mask.dtype} of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise CompactionError(
                f"masks: {name} needs a bool mask of shape ({len(weight)},), one value a filter, got {found}; "
                "masks of weights (WeightPruner) remove no filters"
            )
        for attribute, value in module._parameters.items():
            if value is not None:
                pruned = mask.to(value.device)
                zeroed = value.detach().clone()
                zeroed[pruned] = 0
                setattr(module, attribute, nn.Parameter(zeroed, requires_grad=value.requires_grad))
    return copied


def _follow(dense: nn.Module, forward: Forward, images: Tensor) -> FlowRecord:
    # Two images, so that merging images and channels does not look like merging nothing.
    pair = images[:1].expand(2, *images.shape[1:]).contiguous()
    convs = [name for name, module in dense.named_modules() if isinstance(module, nn.Conv2d)]
    record = follow_channels(dense, forward, pair)
    if not record.uses:
        kind = type(getattr(dense, "backbone", dense)).__name__
        raise CompactionError(
            f"{kind} is not supported: its forward pass uses no convolution or linear layer in a way that can be "
            f"followed ({len(convs)} Conv2d layers in all). docs/compaction.md lists what can be compacted"
        )
    return record


def _run(small: nn.Module, forward: Forward, images: Tensor) -> None:
    try:
        with torch.no_grad():
            forward(small, images)
    except Exception as error:
        kind = type(getattr(small, "backbone", small)).__name__
        raise CompactionError(
            f"{kind} is not supported: without the removed channels its forward pass fails "
            f"({type(error).__name__}: {error}), so its code must count on their number. Leave the layers there out "
            "with exclude when pruning; docs/compaction.md lists the backbones that can be compacted"
        ) from error


def _entries(removal: Removal) -> dict[str, dict[str, dict]]:
    entries: dict[str, dict[str, dict]] = {}
    for dim, kept in removal.kept.items():
        entries.setdefault(dim.layer, {})[dim.side] = {"of": removal.sizes[dim], "kept": kept.tolist()}
    return entries


def add_scatter(layers: dict[str, dict[str, dict]], record: FlowRecord, dense: nn.Module) -> dict[str, dict[str, dict]]:
    """Shrink convolutions with zero filters whose BatchNorm can scatter what is left; see :func:`compact`."""
    layers = {name: dict(entry) for name, entry in layers.items()}
    for name, readers in record.readers.items():
        norm = dense.get_submodule(readers[0]) if readers[0] else None
        if len(readers) != 1 or type(norm) is not nn.BatchNorm2d:
            continue
        silent = (record.zero_filters[name] & record.zero_after[readers[0]]).tolist()
        conv = dense.get_submodule(name)
        out = layers.get(name, {}).get("out", {"of": len(silent), "kept": list(range(len(silent)))})
        filled = [index for index in out["kept"] if not silent[index]]
        single = isinstance(conv, nn.Conv2d) and conv.groups == 1
        alone = sum(other == readers for other in record.readers.values()) == 1
        if not (single and alone and 0 < len(filled) < len(out["kept"])):
            continue
        positions = {channel: position for position, channel in enumerate(out["kept"])}
        entry = {"of": out["of"], "kept": filled}
        scatter = {"of": len(out["kept"]), "to": [positions[channel] for channel in filled]}
        layers[name] = {**layers.get(name, {}), "out": entry}
        layers[readers[0]] = {**layers.get(readers[0], {}), "out": entry, "scatter": scatter}
    return layers


def _nothing_to_remove(model: nn.Module, record: FlowRecord, removal: Removal) -> str:
    zero = sum(int(filters.sum()) for filters in record.zero_filters.values())
    if not zero:
        return (
            f"this {type(model).__name__} is not pruned: no filter is zero. Compact the last checkpoint of a run with "
            "FilterPruningHook, which ends in zeros; for a pruner of your own call its finalize() first"
        )
    reasons = "; ".join(f"{layer}: {reason}" for layer, (_, reason) in list(removal.left.items())[:5])
    return (
        f"{zero} filters of this {type(model).__name__} are zero, but none of them can be removed ({reasons}). Prune "
        "with coupling='group', which masks layers together; docs/compaction.md lists what can be removed in which "
        "backbone"
    )


def _refuse_training_parts(model: nn.Module) -> None:
    parts = getattr(model, "deployable_parts", None)
    if not callable(parts):
        return
    deployed = set(parts())
    others = [name for name, part in model.named_children() if name not in deployed and list(part.parameters())]
    if others:
        raise CompactionError(
            f"{type(model).__name__} has parts that are only for training ({', '.join(others)}): compact its backbone, "
            "or the classifier that tools/export_backbone.py --part classifier writes (tools/compact.py does so itself)"
        )


def _refuse_shared(model: nn.Module, layers: Mapping[str, Any]) -> None:
    """A weight that two layers share would have to shrink for both."""
    owners: dict[int, str] = {}
    for name, module in model.named_modules():
        for value in module._parameters.values():
            if value is None:
                continue
            other = owners.setdefault(id(value), name)
            if other != name and (name in layers or other in layers):
                raise CompactionError(f"{other} and {name} share a weight: leave both out with exclude when pruning")


def _images(model: nn.Module, example_input: Tensor | Sequence[int]) -> Tensor:
    parameter = next(model.parameters(), None)
    if parameter is None:
        raise CompactionError(f"{type(model).__name__} has no parameters")
    if isinstance(example_input, Tensor):
        images = example_input.to(parameter.device, parameter.dtype)
    else:
        shape = tuple(example_input)
        if not all(isinstance(size, int) and size > 0 for size in shape):
            raise ValueError(f"example_input must be a tensor or a shape in whole numbers, got {example_input!r}")
        images = parameter.new_zeros(shape if len(shape) != 3 else (1, *shape))
    if images.ndim != 4:
        raise ValueError(f"example_input must be (B, C, H, W) or (C, H, W), got shape {tuple(images.shape)}")
    return images
