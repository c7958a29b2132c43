"""The deployable network of a checkpoint: its config, its weights, and the network itself."""

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from mmkdprune.checkpoint.keys import NETWORK_FIELDS
from mmkdprune.checkpoint.loading import load_checkpoint_file
from mmkdprune.config.stored_text import read_config_text
from mmkdprune.errors import ExportError
from mmkdprune.metadata.trained_on import trained_on
from mmkdprune.models.utils import peer_configs
from mmkdprune.pruning import load_plan
from mmkdprune.version import __version__

from .filling import fill
from .stored_config import UnsafeConfigError, build_stored, checked_config, refuse_unknown_packages, registered_only

Part = Literal["backbone", "classifier"]
Weights = Literal["saved", "ema", "raw"]
COMPACT_TYPE = "mmkdprune.CompactBackbone"
PARTS: dict[str, tuple[str, ...]] = {"backbone": ("backbone",), "classifier": NETWORK_FIELDS}


class Size(NamedTuple):
    """How much a part of a checkpoint holds."""

    keys: int
    values: int


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
        keys[part_of(key)] += 1
        values[part_of(key)] += value.numel()
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
    state = {key: value for key, value in select_weights(content, weights).items() if part_of(key) in PARTS[part]}
    fill(network, state, source)
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


def part_of(key: str) -> str:
    """Part of the network that a key belongs to: its first name."""
    return key.split(".", 1)[0]


def _is_wanted(name: str, part: Part) -> bool:
    return name in ("type", "data_preprocessor", *PARTS[part])
