"""The backbone of any checkpoint, ready to compute features."""

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import MMLogger
from torch import nn

from mmkdprune.checkpoint.loading import load_checkpoint_file
from mmkdprune.config.reading import read_config
from mmkdprune.errors import ExportError
from mmkdprune.metadata.seen_images import SeenImages, images_of_config, preprocessing_of
from mmkdprune.metadata.trained_on import trained_on
from mmkdprune.randomness import isolated_random_state

from .filling import fill
from .network import Weights, build_network, describe, measure_parts, plain_classifier, select_peer, select_weights
from .stored_config import build_stored, registered_only

PREFIX = "backbone."


@dataclass
class EvaluatedBackbone:
    """A backbone and where it comes from.

    Attributes:
        backbone: With its weights, on the CPU.
        settings: Its config.
        source: Name of the checkpoint's file.
        algorithm: What trained it, where the checkpoint tells.
        peer: Which of the networks that were trained together.
        weights: ``saved``, ``ema`` or ``raw``; ``random`` for initial ones.
        preprocessor: Config of the normalisation it was trained with, where the checkpoint tells.
        images: Normalisation and order of colours of its training, where the checkpoint tells.
        meta: Further facts of the checkpoint: ``epoch``, ``iter``, ``seed``.
        noted_normalisation: Whether the user was told that images are normalised otherwise than in its training.
        is_stored: Whether ``settings`` come from the checkpoint, and not from a config that the user gave.
    """

    backbone: nn.Module
    settings: dict[str, Any]
    source: str
    algorithm: str | None = None
    peer: int = 0
    weights: str = "saved"
    preprocessor: dict[str, Any] | None = None
    images: SeenImages | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    noted_normalisation: bool = False
    is_stored: bool = True

    def describe(self) -> dict[str, Any]:
        """Plain types for a report."""
        name = str(self.settings.get("type", type(self.backbone).__name__))
        depth = self.settings.get("depth", self.settings.get("arch"))
        return {
            "checkpoint": self.source,
            "backbone": f"{name.rpartition('.')[2]}{f'-{depth}' if depth is not None else ''}",
            "algorithm": self.algorithm,
            "weights": self.weights,
            **({"peer": self.peer} if self.peer else {}),
            **self.meta,
        }


def load_trained_backbone(
    checkpoint: str | Path,
    weights: Weights = "saved",
    peer: int = 0,
    config: str | None = None,
) -> EvaluatedBackbone:
    """Build the backbone of a checkpoint and fill it with its weights.

    Any file with ``backbone.*`` keys does: of a run (classification, distillation, self-supervised learning, pruning),
    of an export, of a compaction, or of MMPretrain's model zoo together with its config.

    Args:
        checkpoint (str | Path): The file.
        weights (str): ``'saved'``, ``'ema'`` or ``'raw'``; see
            :func:`mmkdprune.deploy.export.export_checkpoint`. Defaults to ``'saved'``.
        peer (int): Which of the networks that were trained together. Defaults to 0, the deployable one.
        config (str, optional): Config whose ``model.backbone`` it is, when the checkpoint does not say its own.

    Returns:
        EvaluatedBackbone: In training mode, as built.

    Raises:
        ExportError: If there is no backbone or no config in it, or the weights do not fit.
    """
    source = Path(checkpoint)
    content = load_checkpoint_file(source, map_location="cpu")
    whole = select_weights(content, weights)
    state = {
        key.removeprefix(PREFIX): value
        for key, value in select_peer(whole, peer, source).items()
        if key.startswith(PREFIX)
    }
    if not state:
        found = ", ".join(f"{name}.* ({size.keys})" for name, size in list(measure_parts(whole).items())[:8])
        raise ExportError(
            f"{source} has no backbone.* key, so there is no backbone to evaluate; it holds {found or 'nothing'}"
        )
    if config is not None:
        given = read_config(config)
        if "backbone" not in given.get("model", {}):
            raise ExportError(f"{config} has no model.backbone to load {source} into")
        # What the file says of its network is not needed then.
        kept = {key: value for key, value in (content.get("meta") or {}).items() if key not in ("cfg", "model")}
        meta = describe({"meta": kept}, source, "backbone", weights, peer)
        meta["model"] = plain_classifier(given.to_dict(), "backbone", given.get("default_scope"))
    else:
        meta = describe(content, source, "backbone", weights, peer)
    if "model" not in meta:
        raise ExportError(
            f"{source} does not say the config of its network: take the checkpoint of a run or an exported file, or "
            "give the config (--config)"
        )
    settings = meta["model"]["backbone"]
    backbone = build_backbone(settings, is_stored=config is None)
    fill(backbone, state, source, config or "its own config", "backbone weights")
    return EvaluatedBackbone(
        backbone=backbone,
        settings=settings,
        source=source.name,
        algorithm=meta.get("algorithm"),
        peer=peer,
        weights=weights,
        preprocessor=meta["model"].get("data_preprocessor"),
        images=_images(content, meta["model"].get("data_preprocessor"), config),
        meta={key: meta[key] for key in ("epoch", "iter", "seed") if key in meta},
        is_stored=config is None,
    )


def _images(
    content: Mapping[str, Any], preprocessor: Mapping[str, Any] | None, config: str | None
) -> SeenImages | None:
    """What the checkpoint tells of its images, or else the config that was given for it."""
    if config is not None and trained_on(content).images is None:
        return images_of_config(read_config(config))
    known = trained_on(content).images
    return known if known is not None or not preprocessor else preprocessing_of(preprocessor)


def list_peers(checkpoint: str | Path, weights: Weights = "saved") -> list[int]:
    """Numbers of the networks in a checkpoint that were trained together, the deployable one (0) first."""
    state = select_weights(load_checkpoint_file(checkpoint), weights)
    return [0, *sorted({int(key.split(".")[1]) for key in state if key.startswith("peers.")})]


def build_backbone(settings: Mapping[str, Any], is_stored: bool = False) -> nn.Module:
    """Build a backbone from its config.

    Args:
        settings (Mapping[str, Any]): The config.
        is_stored (bool): It comes from a checkpoint, and may name registered classes only. Defaults to False.

    Returns:
        nn.Module: With initial weights.
    """
    model = {"type": "mmpretrain.ImageClassifier", "backbone": copy.deepcopy(dict(settings))}
    return (build_stored(model) if is_stored else build_network(model)).get_submodule("backbone")


def with_random_weights(evaluated: EvaluatedBackbone, seed: int = 0) -> EvaluatedBackbone:
    """The same network as it is before training, for comparison.

    Args:
        evaluated (EvaluatedBackbone): Whose architecture to take; it stays as it is.
        seed (int): Of the initial weights. Defaults to 0.

    Returns:
        EvaluatedBackbone: With initial weights that depend on the seed only.
    """
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel("WARNING")  # MMEngine tells of every single parameter
    try:
        with isolated_random_state("evaluation: initial weights"):
            torch.default_generator.manual_seed(seed)
            backbone: Any = build_backbone(evaluated.settings, evaluated.is_stored)
            with registered_only() if evaluated.is_stored else nullcontext():
                backbone.init_weights()
    finally:
        logger.setLevel(level)
    return EvaluatedBackbone(
        backbone=backbone,
        settings=evaluated.settings,
        source="random initialisation",
        weights="random",
        preprocessor=evaluated.preprocessor,
        images=evaluated.images,
        meta={"seed": seed},
        noted_normalisation=True,  # of the trained network
    )
