"""Where detectors and segmentors give the maps that dense distillation compares."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmkdprune.pruning.forward import flat

PLACES = ("backbone", "neck", "logits")
_HEADS = ("decode_head", "auxiliary_head", "bbox_head", "rpn_head", "mask_head")


class Tap(NamedTuple):
    """A module whose outputs are taken.

    Attributes:
        module: Its path.
        first: Whether only the first of its outputs is taken: the class maps of a detector's head.
    """

    module: str
    first: bool = False


def find_tap(network: Any, at: str, field: str) -> Tap:
    """Find the module behind a name.

    Args:
        network (Any): A detector or segmentor.
        at (str): ``'backbone'``, ``'neck'``, ``'logits'`` or the path of a module.
        field (str): The config's field, for messages.

    Returns:
        Tap: The module.

    Raises:
        ValueError: If there is none, or its maps cannot be compared; the message lists what there is.
    """
    if at == "logits":
        tap = _class_maps(network)
        if tap is None:
            raise ValueError(
                f"{field}: {type(network).__name__} has no class maps (a decode_head with conv_seg, or a dense "
                f"bbox_head or rpn_head); it has {_parts(network)}."
            )
        return tap
    owner = network
    known: list[str] = []
    for name in at.split("."):
        child = dict(owner.named_children()).get(name)
        if child is None:
            inside = f"{type(network).__name__}.{'.'.join(known)}" if known else type(network).__name__
            raise ValueError(
                f"{field}={at!r}: {inside} has no {name!r}, but {_parts(owner)}; 'logits' takes the class maps."
            )
        owner, known = child, [*known, name]
    if known[0] not in ("backbone", "neck", *_HEADS):
        raise ValueError(
            f"{field}={at!r}: only maps of backbone, neck and dense heads depend on the image alone; choose one of "
            f"{PLACES}, or a module inside {_parts(network)}."
        )
    if hasattr(owner, "conv_seg"):  # its loss calls it without hooks
        return Tap(f"{at}.conv_seg")
    return Tap(at)


def _class_maps(network: Any) -> Tap | None:
    head = getattr(network, "decode_head", None)
    if isinstance(head, nn.ModuleList):
        return Tap(f"decode_head.{len(head) - 1}.conv_seg") if hasattr(head[-1], "conv_seg") else None
    if head is not None:
        return Tap("decode_head.conv_seg") if hasattr(head, "conv_seg") else None
    for name in ("bbox_head", "rpn_head"):
        if hasattr(getattr(network, name, None), "prior_generator"):
            return Tap(name, first=True)
    return None


def class_map_head(network: Any) -> Any:
    """The head behind ``at='logits'``."""
    tap = _class_maps(network)
    assert tap is not None
    return network.get_submodule(tap.module.removesuffix(".conv_seg"))


@contextmanager
def recorded(network: nn.Module, taps: Sequence[Tap]) -> Iterator[list[list[Tensor]]]:
    """Collect the maps that modules give while the network runs.

    Args:
        network (nn.Module): The network.
        taps (Sequence[Tap]): The modules.

    Yields:
        list[list[Tensor]]: For each of them the maps, (N, C, H, W), in the order in which they come.
    """
    maps: list[list[Tensor]] = [[] for _ in taps]
    handles = [
        network.get_submodule(tap.module).register_forward_hook(partial(_take, found, tap.first))
        for tap, found in zip(taps, maps, strict=True)
    ]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def _take(found: list[Tensor], first: bool, module: nn.Module, inputs: Any, outputs: Any) -> None:
    found += [item for item in flat(outputs[0] if first else outputs) if isinstance(item, Tensor) and item.dim() == 4]


def maps_of(network: Any, taps: Sequence[Tap], images: Tensor) -> list[list[Tensor]]:
    """Run a network as far as its taps, and return their maps.

    Args:
        network (Any): A detector or segmentor.
        taps (Sequence[Tap]): The modules.
        images (Tensor): Normalised images, (N, C, H, W).

    Returns:
        list[list[Tensor]]: The maps of each tap.
    """
    parts = {tap.module.split(".")[0] for tap in taps}
    with recorded(network, taps) as maps:
        if parts == {"backbone"}:
            network.backbone(images)
            return maps
        features = network.extract_feat(images)
        for name in _HEADS:
            if name in parts:
                _run_head(getattr(network, name), features, is_cascade=name == "decode_head")
    return maps


def _run_head(head: Any, features: Any, is_cascade: bool) -> None:
    previous = None
    for stage in head if isinstance(head, nn.ModuleList) else [head]:
        previous = stage(features, previous) if is_cascade and previous is not None else stage(features)


def probe(network: Any, taps: Sequence[Tap]) -> list[list[Tensor]]:
    """Run a network on small random images, in evaluation mode, with gradients where it trains.

    Args:
        network (Any): A detector or segmentor.
        taps (Sequence[Tap]): The modules.

    Returns:
        list[list[Tensor]]: The maps of each tap.
    """
    from mmkdprune.pruning.modes import evaluating

    first = next(module for module in network.backbone.modules() if isinstance(module, nn.Conv2d))
    for size in (64, 224):
        images = torch.randn(2, first.in_channels, size, size, generator=torch.Generator().manual_seed(0))
        try:
            with evaluating(network), torch.enable_grad():
                return maps_of(network, taps, images)
        except RuntimeError:  # too small for this network
            if size == 224:
                raise
    return []


def _parts(module: nn.Module) -> str:
    return ", ".join(name for name, _ in module.named_children()) or "no parts"
