"""From a training checkpoint to a file that holds only what is deployed: the backbone, or the whole classifier.

The file is ``{'meta': …, 'state_dict': {'backbone.…': …}}`` of plain types: ``torch.load(weights_only=True)`` reads it
in a process that knows nothing of this package, and ``init_cfg=dict(type='Pretrained', checkpoint=…,
prefix='backbone.')`` loads it into any MMPretrain, MMDetection or MMSegmentation config.
"""

import copy
import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from mmkdprune.checkpoint.atomic import atomic_write
from mmkdprune.checkpoint.finite import refuse_non_finite
from mmkdprune.checkpoint.keys import KeyReport, report_loaded_keys
from mmkdprune.checkpoint.loading import load_checkpoint_file
from mmkdprune.config.stored_text import read_config_text
from mmkdprune.metadata.trained_on import trained_on
from mmkdprune.models.utils import peer_configs
from mmkdprune.pruning import load_plan
from mmkdprune.version import __version__

from .stored_config import UnsafeConfigError, build_stored, checked_config, refuse_unknown_packages, registered_only

Part = Literal["backbone", "classifier"]
Weights = Literal["saved", "ema", "raw"]
COMPACT_TYPE = "mmkdprune.CompactBackbone"
PARTS: dict[str, tuple[str, ...]] = {"backbone": ("backbone",), "classifier": ("backbone", "neck", "head")}


class ExportError(ValueError):
    """The checkpoint, the wish or the target of an export does not work out."""


class Size(NamedTuple):
    """How much a part of a checkpoint holds."""

    keys: int
    values: int


@dataclass
class Export:
    """An exported file and what went into it.

    Attributes:
        path: The file.
        meta: Its ``meta``.
        kept: Size of each exported part.
        dropped: Size of each other part of the checkpoint.
        network: The plain network of ``meta['model']``, without the weights; ``None`` when the checkpoint names none.
        report: Comparison of that network's keys with the exported ones.
    """

    path: Path
    meta: dict[str, Any]
    kept: dict[str, Size]
    dropped: dict[str, Size]
    network: nn.Module | None = None
    report: KeyReport | None = None


def export_checkpoint(
    checkpoint: str | Path,
    out: str | Path | None = None,
    part: Part = "backbone",
    weights: Weights = "saved",
    overwrite: bool = False,
    peer: int = 0,
) -> Export:
    """Write the deployable part of a checkpoint to a file of its own.

    Args:
        checkpoint: File of a run (or of an earlier export).
        out: Folder, or path and stem of the file; the name always ends in the first 8 hex digits of the file's SHA-256.
            Defaults to a name made from the config's, beside the checkpoint.
        part: ``backbone``, or ``classifier`` for backbone, neck and head.
        weights: ``saved`` takes ``state_dict`` as it is: the averaged weights when the run had an ``EMAHook``. ``ema``
            and ``raw`` ask for the averaged or the plain weights of such a run.
        overwrite: Replace an existing file.
        peer: Which of the networks that were trained together; 0 is the deployable one.

    Returns:
        What was written.

    Raises:
        ExportError: Nothing to export (a classifier of a run without labels), no such weights or peer, a target that
            exists, or weights that do not fit the network.
    """
    source = Path(checkpoint)
    content = load_checkpoint_file(source, map_location="cpu")
    whole = select_weights(content, weights)
    state = select_peer(whole, peer, source)
    # Copies, because a view would be saved together with all of the memory it looks at.
    kept = {key: _plain_copy(value) for key, value in state.items() if _prefix(key) in PARTS[part]}
    if not any(_prefix(key) == "backbone" for key in state):
        found = ", ".join(f"{name}.* ({size.keys})" for name, size in measure_parts(state).items()) or "nothing"
        raise ExportError(f"{source} has no backbone.* key, so there is no backbone to export; it holds {found}")
    meta = describe(content, source, part, weights, peer)
    network = build_stored(meta["model"]) if "model" in meta else None
    report = report_loaded_keys(network.state_dict(), kept) if network is not None else None
    if report is not None and misfits(report):
        raise ExportError(f"the weights in {source} are not those of its own config: {report.line()}")
    refuse_non_finite(kept, source, network)
    target = Path(out) if out is not None else source.parent
    if target.is_dir() or str(out).endswith(os.sep):
        target = target / f"{_run_name(content, source)}{f'_peer{peer}' if peer else ''}_{part}"
    path = write_export({"meta": meta, "state_dict": kept}, target, overwrite)
    prefix = f"peers.{peer}." if peer else ""
    return Export(
        path=path,
        meta=meta,
        kept=measure_parts(kept),
        dropped=measure_parts(
            {key: value for key, value in whole.items() if key.removeprefix(prefix) not in kept or prefix not in key}
        ),
        network=network,
        report=report,
    )


def select_weights(checkpoint: Mapping[str, Any], weights: Weights = "saved") -> dict[str, Tensor]:
    """The wished weights of a loaded checkpoint.

    MMEngine's ``EMAHook`` swaps on saving: the averages are in ``state_dict``, the plain weights in
    ``ema_state_dict['module.*']``.
    """
    state = checkpoint.get("state_dict")
    if not isinstance(state, Mapping):
        keys = ", ".join(map(str, checkpoint)) or "nothing"
        raise ExportError(f"this is no OpenMMLab checkpoint: it has no state_dict, only {keys}")
    # A key of a model saved inside DDP has the wrapper's prefix.
    state = {key.removeprefix("module."): value for key, value in state.items()}
    if weights == "saved":
        return state
    swapped = checkpoint.get("ema_state_dict")
    if swapped is None:
        raise ExportError(f"weights='{weights}' needs a run with EMAHook; this checkpoint has only one set of weights")
    if weights == "ema":
        return state
    # Buffers that the hook did not swap are the same in both.
    return state | {key.removeprefix("module."): value for key, value in swapped.items() if key.startswith("module.")}


def select_peer(state: Mapping[str, Tensor], peer: int, source: Path) -> Mapping[str, Tensor]:
    """The weights of one of several networks that were trained together, under the keys it would have alone."""
    if peer == 0:
        return state
    prefix = f"peers.{peer}."
    selected = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not selected:
        known = sorted({int(key.split(".")[1]) for key in state if key.startswith("peers.")})
        raise ExportError(
            f"{source} has no peer {peer}: it holds peer 0 (the deployable network) and {known or 'no other'}"
        )
    return selected


def measure_parts(state: Mapping[str, Tensor]) -> dict[str, Size]:
    """Number of tensors and of values under each top-level name."""
    keys: Counter[str] = Counter()
    values: Counter[str] = Counter()
    for key, value in state.items():
        keys[_prefix(key)] += 1
        values[_prefix(key)] += value.numel()
    return {name: Size(keys[name], values[name]) for name in keys}


def describe(
    checkpoint: Mapping[str, Any], source: Path, part: Part, weights: Weights, peer: int = 0
) -> dict[str, Any]:
    """The ``meta`` of an export: where it comes from and how to build its network, without local paths."""
    meta = checkpoint.get("meta") or {}
    described: dict[str, Any] = {
        "mmkdprune_version": __version__,
        "source": source.name,
        "part": part,
        "weights": weights,
        **({"peer": peer} if peer else {}),
    }
    if isinstance(meta.get("model"), dict):
        # An earlier export.
        kept = ("algorithm", "epoch", "iter", "seed", "dataset_meta", "image_colours", "image_shape")
        described |= {key: meta[key] for key in kept if key in meta}
        wanted = {key: value for key, value in meta["model"].items() if _is_wanted(key, part)}
        described["model"] = checked_config(wanted, "model", str(wanted.get("type")).partition(".")[0])
        refuse_unknown_packages(meta["model"], "model")
        return described
    if isinstance(meta.get("cfg"), str):
        config = read_config_text(meta["cfg"], ("default_scope", "model", "data_preprocessor"))
        if "model" in config:
            config, scope = _checked_run(config, part, peer)
            described["algorithm"] = scoped_type(config["model"].get("type", ""), scope)
            with registered_only():
                described["model"] = plain_classifier(config, part, scope, peer)
    images = trained_on(checkpoint).images
    if images is not None and images.colours is not None:
        described["image_colours"] = images.colours
    described |= {key: meta[key] for key in ("epoch", "iter", "seed") if isinstance(meta.get(key), int)}
    classes = (meta.get("dataset_meta") or {}).get("classes")
    if classes is not None:
        described["dataset_meta"] = {"classes": [str(name) for name in classes]}
    return described


def _checked_run(config: dict[str, Any], part: Part, peer: int) -> tuple[dict[str, Any], str | None]:
    """The parts of a run's stored config that a network is rebuilt from, checked, and the scope of its names."""
    model, scope = config["model"], config.get("default_scope")
    if not isinstance(model, Mapping) or not isinstance(scope, str | None):
        raise ExportError("the config stored in the checkpoint has no model that is a dict, or a scope that is no name")
    refuse_unknown_packages({"_scope_": scope}, "default_scope")
    rebuilt = ("data_preprocessor", *PARTS[part], *(("peers", *PARTS["classifier"]) if peer else ()))
    parts = {name: checked_config(model[name], f"model.{name}", scope) for name in rebuilt if name in model}
    preprocessor = checked_config(config.get("data_preprocessor"), "data_preprocessor", scope)
    refuse_unknown_packages(model, "model")
    return {"model": {**model, **parts}, "data_preprocessor": preprocessor}, scope


def plain_classifier(config: Mapping[str, Any], part: Part, scope: str | None, peer: int = 0) -> dict[str, Any]:
    """Config of the plain ``ImageClassifier`` whose keys the exported ones are.

    Initialisation is left out: it may name files of this machine, and weights come from the export.
    """
    model = config["model"]
    if part == "classifier" and _learns_without_labels(scoped_type(model.get("type", ""), scope)):
        raise ExportError(
            f"{model['type']} learns without labels, so there is no classifier to export: take the backbone "
            "(--part backbone, the default), and train a classifier on it"
        )
    if peer:
        own = peer_configs(model, model.get("num_peers"), model.get("peers"))[peer]
        model = own | {"data_preprocessor": model.get("data_preprocessor")}
    plain: dict[str, Any] = {"type": "mmpretrain.ImageClassifier"}
    for name in PARTS[part]:
        if isinstance(model.get(name), dict):
            plain[name] = _plain_part(model[name], scope)
        elif isinstance(model.get(name), list | tuple):  # one after the other, as the neck of HRNet
            plain[name] = [_plain_part(settings, scope) for settings in model[name]]
    preprocessor = model.get("data_preprocessor") or config.get("data_preprocessor")
    if isinstance(preprocessor, dict):
        plain["data_preprocessor"] = dict(preprocessor)
        if isinstance(preprocessor.get("type"), str):
            plain["data_preprocessor"]["type"] = scoped_type(preprocessor["type"], scope)
        if str(preprocessor.get("type")).split(".")[-1] == "SelfSupDataPreprocessor":  # for several views of an image
            del plain["data_preprocessor"]["type"]
    return plain


def _learns_without_labels(name: str) -> bool:
    from mmpretrain.models.selfsup import BaseSelfSupervisor

    try:
        found = MODELS.get(name)
    except UnsafeConfigError:  # of a package that is not here: it is not rebuilt itself
        return False
    return isinstance(found, type) and issubclass(found, BaseSelfSupervisor)


def _plain_part(settings: Mapping[str, Any], scope: str | None) -> dict[str, Any]:
    plain = _without_paths(settings, scope)
    return plain | {"type": scoped_type(plain.get("type", ""), scope)}


def _without_paths(settings: Mapping[str, Any], scope: str | None) -> dict[str, Any]:
    """Config of a part without files of this machine; a compact backbone has its plan in it."""
    plain = {key: value for key, value in settings.items() if key not in ("init_cfg", "pretrained")}
    if scoped_type(plain.get("type", ""), scope) == COMPACT_TYPE:
        plain["backbone"] = _plain_part(plain["backbone"], scope)
        plain["plan"] = load_plan(plain["plan"]).to_dict()
    return plain


def scoped_type(name: str, scope: str | None) -> str:
    """``ResNet`` → ``mmpretrain.ResNet``, so that a config of any other OpenMMLab package finds the class."""
    first, *_, last = name.split(".") if "." in name else (scope or "mmpretrain", name)
    return f"{first}.{last}"


def load_deployable(
    checkpoint: str | Path, part: Part = "classifier", weights: Weights = "saved"
) -> tuple[nn.Module, tuple[int, int, int]]:
    """Build the deployable network of a checkpoint, from the config that is stored in it, with its weights.

    Args:
        checkpoint: File of a run, of an export or of a compaction.
        part: ``backbone``, or ``classifier`` for backbone, neck and head.
        weights: As for :func:`export_checkpoint`.

    Returns:
        The network (the backbone itself for ``backbone``) and the shape of its images, (C, H, W): what the checkpoint
        knows of it, else (3, 224, 224).

    Raises:
        ExportError: No config in the checkpoint, or weights that do not fit it.
    """
    source = Path(checkpoint)
    content = load_checkpoint_file(source, map_location="cpu")
    meta = describe(content, source, part, weights)
    if "model" not in meta:
        raise ExportError(f"{source} does not say its config: take the checkpoint of a run, or a file exported from it")
    network = build_stored(meta["model"])
    state = {key: value for key, value in select_weights(content, weights).items() if _prefix(key) in PARTS[part]}
    report = report_loaded_keys(network.state_dict(), state)
    if misfits(report):
        raise ExportError(f"the weights in {source} are not those of its own config: {report.line()}")
    refuse_non_finite(state, source, network)
    network.load_state_dict(state, strict=False)
    shape = (content.get("meta") or {}).get("image_shape") or pruned_image_shape(content)
    channels, height, width = (int(size) for size in shape or (3, 224, 224))
    deployed = network.get_submodule("backbone") if part == "backbone" else network
    return deployed, (channels, height, width)


def pruned_image_shape(content: Mapping[str, Any]) -> Sequence[int] | None:
    """Shape of the images, (C, H, W), with which the run behind a checkpoint pruned; None if it did not."""
    pruning = (content.get("mmkdprune") or {}).get("pruning") or {}
    return (pruning.get("results") or {}).get("image_shape")


def build_network(model: Mapping[str, Any], scope: str | None = None) -> nn.Module:
    """Build a model from a plain config, such as that in an export's ``meta``.

    Args:
        model: The config.
        scope: Scope of the names in it. Defaults to that of the model's own type.
    """
    with DefaultScope.overwrite_default_scope(scope or model["type"].split(".")[0]):
        # The builder takes keys off what it is given.
        return MODELS.build(ConfigDict(copy.deepcopy(dict(model))))


def misfits(report: KeyReport) -> list[str]:
    """Keys that keep weights from filling a network exactly, whatever the direction.

    Batch counters of normalisation layers do not count: old checkpoints lack them and inference does not read them.
    """
    keys = [*report.missing, *report.unexpected, *report.mismatched]
    return [key for key in keys if not key.endswith("num_batches_tracked")]


def saved_bytes(content: dict[str, Any]) -> bytes:
    """What ``torch.save`` writes."""
    with io.BytesIO() as buffer:
        torch.save(content, buffer)
        return buffer.getvalue()


def write_export(content: dict[str, Any], target: Path, overwrite: bool = False) -> Path:
    """Write atomically to ``<target>-<first 8 hex digits of the SHA-256>.pth`` and return that path."""
    data = saved_bytes(content)
    stem = target.name.removesuffix(".pth")
    path = target.with_name(f"{stem}-{hashlib.sha256(data).hexdigest()[:8]}.pth")
    if path.exists() and not overwrite:
        raise ExportError(f"{path} exists already; add --overwrite to replace it, or give another name")
    with atomic_write(path) as file:
        file.write(data)
    return path


def _plain_copy(value: Tensor) -> Tensor:
    return value.detach().clone(memory_format=torch.contiguous_format)


def _prefix(key: str) -> str:
    return key.split(".", 1)[0]


def _is_wanted(name: str, part: Part) -> bool:
    return name in ("type", "data_preprocessor", *PARTS[part])


def _run_name(checkpoint: Mapping[str, Any], source: Path) -> str:
    """Name of the config: MMEngine's experiment name without its time, else the checkpoint's folder."""
    experiment = (checkpoint.get("meta") or {}).get("experiment_name")
    name = experiment if isinstance(experiment, str) else source.resolve().parent.name
    # A name from a file must not choose the folder.
    return re.sub(r"_?\d{8}_\d{6}$", "", os.path.basename(name)).lstrip(".") or source.stem
