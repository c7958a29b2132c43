"""Follow the channels of the part of a model that is pruned: which images to try, and what to do where none works."""

import warnings
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .layer_record import ChannelNode, Trace, TracedConv
from .layers import SHORTCUT_NAME, trace_channels

# Sizes that are tried in turn to follow the channels; small ones for networks with a classifier inside.
IMAGE_SIZES = (64, 32, 224, 28, 16, 8)
# Pixels that a stem may put next to each other: 2 x 2 and 4 x 4.
PIXELS_OF_STEMS = (4, 16)


def trace_scope(network: nn.Module, image: Tensor | None, model: nn.Module | None = None) -> Trace:
    """Follow the channels of the pruned part, with the given image or with zeros of some usual size.

    A part that does not read images, a head say, is met in a pass of the whole model. Falls back to the order in which
    layers were registered when no forward pass works, with a warning.

    Args:
        network (nn.Module): What is pruned.
        image (Tensor, optional): Images.
        model (nn.Module, optional): The model that the network is a part of.
    """
    convs = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    if not convs:
        raise ValueError(f"{type(network).__name__} has no Conv2d layer, so there are no filters to prune")
    trace = _trace_first_that_works(network, convs, image, None if model is network else model)
    trace.unmet = [name for name, _ in convs if name not in trace.convs]
    scripted = [name for name, module in network.named_modules() if isinstance(module, torch.jit.ScriptModule)]
    trace.scripted = [name for name in scripted if name.rpartition(".")[0] not in scripted]
    return trace


def known_channels(network: nn.Module, model: nn.Module | None) -> int | None:
    """Number of channels of the images that a model's data preprocessor gives it; None if it does not tell."""
    for owner in (model, network):
        mean = getattr(getattr(owner, "data_preprocessor", None), "mean", None)
        if isinstance(mean, Tensor):
            return mean.numel()
    return None


def image_channels(first: nn.Conv2d, known: int | None) -> list[int]:
    """Numbers of channels that images may have, to be tried in turn.

    Args:
        first (nn.Conv2d): The first convolution. A stem that puts pixels next to each other (Focus, patches) lets it
            read more channels than the images have.
        known (int, optional): What the data preprocessor gives.
    """
    wide = first.in_channels
    guessed = [wide, *(wide // pixels for pixels in PIXELS_OF_STEMS if wide % pixels == 0), 3]
    return list(dict.fromkeys(guessed if known is None else [known, *guessed]))


def images_to_try(first: nn.Conv2d, known: int | None, sizes: Iterable[int]) -> list[Tensor]:
    """Zeros of usual sizes, one image each, as a network may take them.

    Args:
        first (nn.Conv2d): The first convolution.
        known (int, optional): Number of channels, as for :func:`image_channels`.
        sizes (Iterable[int]): Height and width, in the order in which they are to be tried.
    """
    shapes = [(1, channels, size, size) for size in sizes for channels in image_channels(first, known)]
    return [torch.zeros(shape, device=first.weight.device, dtype=first.weight.dtype) for shape in shapes]


def reads_images(first: nn.Conv2d, known: int | None) -> bool:
    """Whether a part whose first convolution this is seems to read images, not what other parts make of them."""
    if known is None:
        return first.in_channels in (1, 3, *(3 * pixels for pixels in PIXELS_OF_STEMS))
    return first.in_channels in (known, *(known * pixels for pixels in PIXELS_OF_STEMS))


def _trace_first_that_works(
    network: nn.Module, convs: list[tuple[str, nn.Conv2d]], image: Tensor | None, model: nn.Module | None
) -> Trace:
    first, known = convs[0][1], known_channels(network, model)
    images = [image] if image is not None else images_to_try(first, known, IMAGE_SIZES)
    # a part behind others may take images for features, and then tell nothing of how it is used
    order = [None] if model is None else [None, model] if reads_images(first, known) else [model, None]
    failure: Exception | None = None
    for runs in order:
        for batch in images:
            try:
                trace = trace_channels(network, batch, runs)
            except Exception as error:
                failure = failure or error
            else:
                trace.image_shape = tuple(batch.shape) if runs is None else None
                return trace
    assert failure is not None
    if image is not None:
        raise failure
    warnings.warn(
        f"{type(network).__name__} could not be run on images of {', '.join(map(str, IMAGE_SIZES))} px to follow its "
        f"channels ({type(failure).__name__}: {failure}). BatchNorms are taken to follow the convolution that was "
        "registered before them. Pass example_input, a tensor that the network takes, to do better.",
        stacklevel=4,
    )
    trace = trace_by_order(network)
    trace.failure = f"{type(failure).__name__}: {failure}"
    return trace


def trace_by_order(network: nn.Module) -> Trace:
    """Pair convolutions and BatchNorms by the order in which they were registered."""
    trace = Trace()
    leaves = [(name, module) for name, module in network.named_modules() if not list(module.children())]
    node: ChannelNode | None = None
    for name, module in leaves:
        if isinstance(module, nn.Conv2d):
            depthwise = module.groups == module.in_channels == module.out_channels and module.groups > 1
            kind = "dense" if module.groups == 1 else "depthwise" if depthwise else "grouped"
            shortcut = bool(SHORTCUT_NAME.search(name))
            trace.convs[name] = TracedConv(name, kind, None, shortcut=shortcut)
            follows = depthwise and node is not None and node.size == module.out_channels
            if follows and node is not None:
                node.followers.append(name)
            else:
                node = ChannelNode(module.out_channels, frozenset((name,)), blocked="its channels were not followed")
                trace.nodes.append(node)
        elif isinstance(module, _BatchNorm) and node is not None and node.size == module.num_features:
            node.norms.append((name, 0))
    if any(node.norms for node in trace.nodes):  # in networks with norms, what has none behind it may be an output
        trace.unread = {name for node in trace.nodes if not node.norms for name in node.sources}
    return trace
