"""From a pruned network, as large as before, to a physically small one that computes the same."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmkdprune.arguments import checked

from ..checks import check_count
from ..forward import Forward, run_deployable
from ..modes import copy_modes
from ..selection import find_scope
from ..tracing.channel_record import FlowRecord
from .attributes import changed_sizes, planned_sizes
from .equality import Comparison
from .lockstep import Fault
from .plan import Plan, fingerprints
from .probes import Probe
from .removal import CompactionError, Removal, find_removal
from .surgery import apply_plan, set_widths, skeleton, unshare

__all__ = ["CompactionError", "compact"]

# Each attempt takes channels back; every second one at most as many as all before it.
MAX_ATTEMPTS = 24
_CONSTANT_REMEDY = (
    "Removing them would change the network. Prune with bn_policy='follow' and let the pruner finalize, "
    "which zeroes the BatchNorm behind a filter, too; or leave the layer out with exclude"
)


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
    dense = model if masks is None else masked_copy(model, masks)
    comparison = Comparison(dense, forward, images, check)
    record = comparison.record
    if not record.uses:
        raise CompactionError(_nothing_followed(dense))
    removal, small, plan = _shrink_until_equal(model, dense, comparison, divisor)
    if scatter and (scattered := add_scatter(plan.layers, record, dense)) != plan.layers:
        plan.layers = scattered
        small = apply_plan(skeleton(dense), plan)
        if (found := comparison.fault(small, removal.stays)) is not None:
            raise CompactionError(f"scatter=True changes the network: {found[1].reason}. Leave it out")
    if not plan.layers:
        raise CompactionError(_nothing_to_remove(model, record, removal))
    _warn_of_constants(removal)
    _warn_of_training(model, comparison)
    unshare(small, model)
    if check:
        plan.check = {
            "sizes": comparison.sizes(),
            "max_relative_error": comparison.largest,
            "dtype": str(comparison.dtype).removeprefix("torch."),
            "scales": sorted({probe.scale for probe in comparison.probes if probe.scale}),
            "training": any(probe.training for probe in comparison.probes),
        }
    copy_modes(model, small)
    return small, plan


def _shrink_until_equal(
    model: nn.Module, dense: nn.Module, comparison: Comparison, divisor: int
) -> tuple[Removal, nn.Module, Plan]:
    """Remove channels, compare, and take back those at which the networks begin to differ, until they are equal."""
    found: tuple[Probe, Fault] | None = None
    for attempt in range(MAX_ATTEMPTS):
        removal = find_removal(comparison.record, divisor)
        layers = _entries(removal)
        plan = Plan(layers, fingerprints(model), left=removal.left, network=type(model).__name__, divisor=divisor)
        plan.attributes = changed_sizes(
            comparison.kept_sizes, comparison.layer_sizes, planned_sizes(comparison.layer_sizes, layers)
        )
        if not layers:
            comparison.largest = 0.0
            return removal, skeleton(dense), plan
        small = apply_plan(skeleton(dense), plan)
        found = comparison.fault(small, removal.stays, plan)
        if found is None:
            set_widths(small, plan)
            return removal, small, plan
        _take_back(comparison.record, removal, *found, count=2**attempt)
    assert found is not None
    raise CompactionError(
        f"{type(model).__name__} cannot be compacted: {found[1].reason}. Leave the layers before that out with exclude "
        "when pruning; docs/compaction.md lists what can be compacted"
    )


def _take_back(record: FlowRecord, removal: Removal, probe: Probe, fault: Fault, count: int) -> None:
    """Pin the channels at a fault; if none of them was to go, those of the last steps before it."""
    before = list(reversed(probe.steps[: fault.index]))
    here = probe.steps[fault.index : fault.index + 1]
    for steps, number in ((here, 1), (before, count)):
        for step in steps:
            going = [labels for labels in step.labels() if not bool(removal.stays(labels).all())]
            for labels in going:
                record.pin(labels, fault.reason)
            number -= bool(going)
            if not number:
                return


def _warn_of_constants(removal: Removal) -> None:
    if removal.constants:
        layer, (number, reason) = next(iter(removal.constants.items()))
        more = f", and of {len(removal.constants) - 1} more layers" if len(removal.constants) > 1 else ""
        warnings.warn(f"{number} zero filters of {layer}{more} stay: {reason}. {_CONSTANT_REMEDY}", stacklevel=4)


def _warn_of_training(model: nn.Module, comparison: Comparison) -> None:
    if comparison.training_failure:
        warnings.warn(
            f"{type(model).__name__} fails in training mode ({comparison.training_failure}), so layers that only "
            "training uses were not compared. To compare them, give forward, a function that runs the network on "
            "images in training mode, too; for inference the compact network is right",
            stacklevel=4,
        )


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


def _nothing_followed(dense: nn.Module) -> str:
    convs = [name for name, module in dense.named_modules() if isinstance(module, nn.Conv2d)]
    return (
        f"{type(getattr(dense, 'backbone', dense)).__name__} is not supported: its forward pass uses no convolution "
        f"or linear layer in a way that can be followed ({len(convs)} Conv2d layers in all). docs/compaction.md lists "
        "what can be compacted"
    )


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
    reasons = "; ".join(f"{number} of {layer}: {reason}" for layer, (number, reason) in list(removal.left.items())[:5])
    remedy = (
        _CONSTANT_REMEDY
        if removal.constants
        else "Prune with coupling='group', which masks layers together; docs/compaction.md lists what can be removed "
        "in which backbone"
    )
    return (
        f"{zero} filters of this {type(model).__name__} are zero, but none of them can be removed ({reasons}). {remedy}"
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
            "or the classifier that mmkdprune export --part classifier writes (mmkdprune compact does so itself)"
        )


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
