"""Pooled features of a classifier, which contrastive methods embed beside its logits."""

from typing import Any

from torch import Tensor, nn

from ..branches import pool
from ..utils import build_initialised


def classifies_features(network: Any) -> bool:
    """Whether it is the head that classifies, and not the backbone (VGG)."""
    return bool(getattr(network.head, "num_classes", None))


def run_network(network: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Compute logits, (N, C), and pooled features, (N, D), of a network on images, (N, C_in, H, W)."""
    if classifies_features(network):
        return classify(network, network.backbone(images))
    run = network.stage_protocol.forward(network.backbone, images)
    return classify(network, run.outputs, run.last_map)


def classify(network: Any, outputs: Any, last_map: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Run neck and head of a network.

    Args:
        network (ImageClassifier): The network.
        outputs (Any): What its backbone gives.
        last_map (Tensor, optional): Its last feature map, which a backbone with a classifier of its own needs.

    Returns:
        tuple[Tensor, Tensor]: Logits (N, C), and the pooled features that are classified, (N, D).
    """
    feats = network.neck(outputs) if network.with_neck else outputs
    if classifies_features(network):
        pooled = network.head.pre_logits(feats)
    else:
        assert last_map is not None
        pooled = pool(last_map)
    return network.head(feats), pooled


def embedding_channels(network: Any) -> int | None:
    """Return the dimensions of the pooled features that :func:`classify` gives, None where they are unknown."""
    if not classifies_features(network):
        return network.stage_protocol.out_channels(network.backbone)
    last = getattr(network.head, "fc", None)
    last = getattr(last, "fc", last)  # of a head with hidden layers
    return last.in_features if isinstance(last, nn.Linear) else getattr(network.head, "in_channels", None)


def build_projection(network: Any, config: dict | None) -> nn.Module:
    """Make the projection head of a network.

    Args:
        network (ImageClassifier): The network.
        config (dict, optional): Config of the head, without ``in_channels``.

    Returns:
        nn.Module: The head, initialised.
    """
    channels = embedding_channels(network)
    settings = {"type": "mmkdprune.ProjectionHead", "in_channels": channels, **(config or {})}
    if not isinstance(settings["in_channels"], int):
        raise ValueError(
            f"the pooled features of {type(network.head).__name__} have an unknown number of channels: set "
            "model.projection=dict(in_channels=...)."
        )
    return build_initialised(settings)
