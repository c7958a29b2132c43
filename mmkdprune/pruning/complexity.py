"""How much a network computes: counted and measured, and the papers' own formula."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmkdprune.arguments import checked

from .checks import check_choice, check_count, check_number, check_patterns, make_images, running_on
from .forward import Forward
from .modes import evaluating
from .selection import Selection, find_scope, select_groups
from .tracing.scope import trace_scope


@checked
def complexity(model: nn.Module, input_shape: Sequence[int], rounds: int = 10) -> dict[str, float]:
    """Count and time a forward pass.

    Masks change none of these numbers: zeros are computed like any other value, until they are removed.

    Args:
        model (nn.Module): Called as ``model(images)`` in evaluation mode; left in the mode it was in.
        input_shape (Sequence[int]): (C, H, W) for one image, or (B, C, H, W).
        rounds (int): Timed passes; the median counts. 0: no timing.

    Returns:
        dict: ``macs``, multiply-accumulate operations of one image in convolutions and matrix products, by PyTorch's
        counter; ``params``, number of parameters; ``latency_ms``, milliseconds for one pass of the whole batch on the
        model's device (absent with ``rounds=0``).

    Raises:
        ValueError: If the shape does not have three or four numbers.
    """
    check_count("rounds", rounds, 0)
    images = make_images("input_shape", input_shape, model)
    with evaluating(model), torch.no_grad(), running_on("input_shape", images):
        with FlopCounterMode(display=False) as counter:
            model(images)
        macs = counter.get_total_flops() // 2 // len(images)
        result = {"macs": macs, "params": sum(parameter.numel() for parameter in model.parameters())}
        if rounds:
            times = [pass_seconds(model, images) for _ in range(rounds + 1)][1:]  # the first warms up
            result["latency_ms"] = 1e3 * statistics.median(times)
    return result


@checked
def paper_flops(
    model: nn.Module, rate: float, input_shape: Sequence[int], scope: str | None = None, **selection: Any
) -> dict[str, float]:
    """FLOPs as the papers count them, to compare with their tables; not what a pruned network really costs.

    Multiply-accumulate operations of convolutions only; projection shortcuts, BatchNorms and classifiers do not count.
    A pruned convolution keeps 1 - rate of its outputs, and of its inputs if these come from one pruned convolution
    alone. Outputs of a block's last convolution thus count as saved although the residual stream keeps its width,
    which takes a scatter operation when the filters are removed physically. Real numbers: :func:`complexity` of the
    compacted network.

    Source: the FLOPs that the SFP code computes, which are those of the tables of SFP, ASFP and FPGM.

    Args:
        model (nn.Module): The dense network.
        rate (float): Pruning rate in [0, 1).
        input_shape (Sequence[int]): (C, H, W).
        scope (str | None): As for :class:`FilterPruner`.
        **selection: Its ``include, exclude, rate_map, coupling, prune_first, prune_last, prune_downsample,
            prune_outputs``.

    Returns:
        dict: ``dense`` and ``pruned``, multiply-accumulate operations of one image, and ``reduction``, the share saved.
    """
    check_number("rate", rate, 0, 1, open_high=True)
    name, network = find_scope(model, scope)
    images = make_images("input_shape", input_shape, network)
    check_selection(selection)
    with running_on("input_shape", images):
        trace = trace_scope(network, images, model)
    groups, _ = select_groups(trace, name, rate, Selection(**selection))
    kept = {member: 1 - group.rate for group in groups for member in group.members}
    dense = pruned = 0.0
    for conv in trace.convs.values():
        if conv.shortcut:
            continue
        source = conv.inputs.sources if conv.inputs is not None and conv.inputs.node is not None else frozenset()
        inputs = kept.get(next(iter(source)), 1.0) if len(source) == 1 and conv.kind == "dense" else 1.0
        dense += conv.macs
        pruned += conv.macs * kept.get(conv.name, 1.0) * inputs
    return {"dense": dense, "pruned": pruned, "reduction": 1 - pruned / dense}


def check_selection(selection: dict[str, Any]) -> None:
    """Bring the arguments that choose layers into the form of :class:`Selection`; refuse unknown ones.

    Raises:
        ValueError: If one is unknown, or not a regular expression.
    """
    known = Selection.__dataclass_fields__
    for name in selection:
        check_choice("paper_flops: the name of an argument", name, tuple(known))
    for name in ("include", "exclude"):
        if name in selection:
            selection[name] = check_patterns(name, selection[name])


def pass_seconds(model: nn.Module, images: Tensor, forward: Forward | None = None) -> float:
    """Time one pass of a batch, the device's work included.

    Args:
        model (nn.Module): The model.
        images (Tensor): (B, C, H, W).
        forward (Callable, optional): Called as ``forward(model, images)``. Defaults to ``model(images)``.

    Returns:
        float: Seconds.
    """
    if images.device.type == "cuda":
        torch.cuda.synchronize(images.device)
    start = time.perf_counter()
    if forward is None:
        model(images)
    else:
        forward(model, images)
    if images.device.type == "cuda":
        torch.cuda.synchronize(images.device)
    return time.perf_counter() - start
