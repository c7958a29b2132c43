"""A trained backbone in another config: checked against it, key by key and width by width, before anything trains."""

import contextlib
import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from torch import nn

from mmkdprune.checkpoint.atomic import atomic_write
from mmkdprune.checkpoint.keys import KeyReport, OtherPrefixError, PretrainedKeysError, load_backbone, misfits
from mmkdprune.compat.versions import require_scope
from mmkdprune.config.hooks import places_of_pruning
from mmkdprune.errors import UsageError
from mmkdprune.metadata.seen_images import differences, images_of_config
from mmkdprune.pruning import PlanError

from .misfit import refuse_misfit, refuse_other_depth
from .network import build_network
from .settings import BackboneSettings
from .source import BackboneSource, read_source
from .widths import feature_channels, set_inputs

PREFIX = "backbone."
_KEEP_ZEROS = {"type": "mmkdprune.FilterPruningHook", "pruner": {"type": "ZeroKeeper"}}
_IMAGE_SIZES = (32, 64, 224)
# Names that say nothing of the run; its folder does.
_UNTELLING = re.compile(r"(epoch|iter)_\d+|best_.*|compact|latest|last")


@dataclass
class Transfer:
    """A config that starts from a backbone, and how well that fits.

    Attributes:
        config: The adapted config.
        report: The backbone's keys against the file's.
        channels: Widths of the feature maps; empty if the backbone could not be run.
        zeros: Filters of the backbone that are zero, and filters in all.
        is_compact: Whether the config builds the compact form.
        notes: What was changed or deserves a look, one sentence each.
    """

    config: Config
    report: KeyReport
    channels: list[int]
    zeros: tuple[int, int]
    is_compact: bool
    notes: list[str] = field(default_factory=list)


def transfer_backbone(
    checkpoint: str | Path,
    config: Config,
    prefix: str | None = None,
    plan: str | Path | None = None,
    keep_zeros: bool = False,
    partial: bool = False,
) -> Transfer:
    """Adapt a config of MMPretrain, MMDetection or MMSegmentation to start from a trained backbone.

    The backbone of the config is built and filled from the file. A compact one keeps the config's own settings
    (frozen stages, ``norm_eval``, dilations) and its neck and heads get the new widths. MMSegmentation's ``ResNetV1c``
    becomes ``ResNet`` if the file has no deep stem.

    Args:
        checkpoint: An exported backbone, a training checkpoint or a compact one.
        config: The config to start from; left as it is.
        prefix: Leading part of the backbone's keys in the file. Defaults to ``'backbone.'``.
        plan: Plan of a compact backbone. Defaults to the one in the checkpoint, if there is one.
        keep_zeros: Add the hook that keeps zero filters zero.
        partial: Accept keys that are missing or left over; widths must fit all the same.

    Returns:
        The adapted config and the comparison.

    Raises:
        UsageError: The backbone does not fit; the message names the field, the value and what to do.
        StackError: The package of the config cannot be imported.
    """
    path = Path(checkpoint).resolve()
    if not path.is_file():
        raise UsageError(f"there is no checkpoint {checkpoint}")
    model = _model_of(config)
    source = read_source(path, plan)
    init_cfg = {"type": "Pretrained", "checkpoint": str(path), "prefix": PREFIX if prefix is None else prefix}
    if not init_cfg["prefix"]:
        del init_cfg["prefix"]
    notes = [source.note] if source.note else []
    scope = config.get("default_scope") or "mmpretrain"
    require_scope(scope)
    own = BackboneSettings.parse(model["backbone"])
    filled = _find_fitting(own, source, scope, init_cfg.get("prefix"), partial)
    settings, network = filled.settings, filled.network
    before, after = own.class_name, settings.class_name
    if before != after:
        notes.append(f"model.backbone.type: {before} became {after}, whose stem is the checkpoint's")
    for was_pretrained in (model.pop("pretrained", None), settings.get("pretrained")):
        if was_pretrained:
            notes.append("pretrained was taken out: the backbone's weights come from the checkpoint")
    is_compact = source.plan is not None
    elsewhere = source.plan if source.plan != init_cfg["checkpoint"] else None
    model["backbone"] = {**settings.to_config(is_compact, elsewhere), "init_cfg": init_cfg}
    channels = _feature_channels(network, settings)
    if channels:
        notes += _fit_readers(model, channels)
    adapted = copy.deepcopy(config)
    adapted.model = model
    zeros = _count_zeros(network)
    notes += _keep_zeros(adapted, zeros, keep_zeros)
    notes += _compare_images(adapted, settings, source)
    return Transfer(adapted, filled.report, channels, zeros, is_compact, notes)


def transfer_name(checkpoint: str | Path, config: str) -> str:
    """Name of a run of a config from a backbone: ``<config>_<backbone's run>``."""
    path = Path(checkpoint).resolve()
    label = path.parent.name if _UNTELLING.fullmatch(path.stem) else path.stem
    return f"{Path(config.split('::')[-1]).stem}_from_{label}"


def write_config(
    transfer: Transfer,
    path: Path,
    overwrite: bool = False,
    how_to_replace: str = "give another --out, or replace it with --overwrite",
) -> None:
    """Write the adapted config, whole or not at all; the same content that is there already is no conflict.

    Args:
        transfer: What was adapted.
        path: Where to.
        overwrite: Replace what is there.
        how_to_replace: What to do about it otherwise, for the message.

    Raises:
        UsageError: Something else is there.
    """
    settings = transfer.config.to_dict()
    settings.pop("work_dir", None)
    text = "# Written by mmkdprune transfer; trains and tests like any config.\n" + Config(settings).pretty_text
    if path.exists() and not overwrite:
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            return
        raise UsageError(f"{path} exists already and differs: {how_to_replace}")
    with atomic_write(path, "w", encoding="utf-8") as file:
        file.write(text)


def _model_of(config: Config) -> dict[str, Any]:
    model = config.to_dict().get("model")
    backbone = model.get("backbone") if isinstance(model, Mapping) else None
    if not isinstance(model, dict) or not isinstance(backbone, Mapping) or "type" not in backbone:
        raise UsageError("the config has no model.backbone with a type, so no backbone can be moved into it")
    if config.get("load_from"):
        raise UsageError(
            f"load_from={config.load_from!r} loads a whole model, which would replace the backbone again: take it out "
            "with --cfg-options load_from=None"
        )
    return model


class _Filled(NamedTuple):
    """A backbone with what the file has for it."""

    settings: BackboneSettings
    network: nn.Module
    report: KeyReport


def _find_fitting(
    own: BackboneSettings, source: BackboneSource, scope: str, prefix: str | None, partial: bool
) -> _Filled:
    """The first network that the config's backbone may stand for and that the file fills."""
    *others, last = own.candidates()
    for settings in others:
        with contextlib.suppress(PlanError):
            filled = _fill(settings, source, scope, prefix)
            if not misfits(filled.report):
                return filled
    try:
        filled = _fill(last, source, scope, prefix)
    except PlanError as error:
        raise UsageError(f"the plan of {source.path} does not fit model.backbone: {error}") from None
    if misfits(filled.report):
        refuse_misfit(filled.report, filled.network, source, prefix, partial)
    return filled


def _fill(settings: BackboneSettings, source: BackboneSource, scope: str, prefix: str | None) -> _Filled:
    refuse_other_depth(settings, source)
    network = build_network(settings.to_config(source.plan is not None, source.plan), scope)
    report = _load(network, source.path, prefix)
    return _Filled(settings, network, report if prefix else _without_other_parts(report, network))


def _load(network: nn.Module, path: Path, prefix: str | None) -> KeyReport:
    try:
        return load_backbone(network, str(path), prefix)
    except OtherPrefixError as error:
        raise UsageError(f"{error} mmkdprune transfer takes it as --prefix (--prefix '' for none).") from None
    except PretrainedKeysError as error:
        raise UsageError(str(error)) from None


def _without_other_parts(report: KeyReport, network: nn.Module) -> KeyReport:
    """Without a prefix, all of a file is looked at: a classifier in it is no part of the backbone."""
    parts = {name for name, _ in network.named_children()}
    return replace(report, unexpected=[key for key in report.unexpected if key.split(".")[0] in parts])


def _feature_channels(network: nn.Module, settings: BackboneSettings) -> list[int]:
    channels = settings.get("in_channels", 3)
    for size in _IMAGE_SIZES:
        try:
            return feature_channels(network, (channels, size, size))
        except RuntimeError:  # an image too small for this network
            continue
    return []


def _fit_readers(model: dict[str, Any], channels: list[int]) -> list[str]:
    """Give neck and heads the widths that the backbone has."""
    before = copy.deepcopy(model)
    set_inputs(model, channels)
    notes = []
    for name, part in model.items():
        pairs = zip(part, before[name], strict=True) if isinstance(part, list | tuple) else [(part, before[name])]
        for new, old in pairs:
            if isinstance(new, Mapping) and "in_channels" in new and _listed(new) != _listed(old):
                notes.append(f"model.{name}.in_channels: {old['in_channels']} became {new['in_channels']}")
            elif isinstance(new, dict) and "in_channels" in new:
                new["in_channels"] = old["in_channels"]
            if isinstance(new, Mapping) and new.get("c1_in_channels") != old.get("c1_in_channels"):
                notes.append(f"model.{name}.c1_in_channels: {old['c1_in_channels']} became {new['c1_in_channels']}")
    return notes


def _listed(part: Mapping[str, Any]) -> list[int]:
    value = part["in_channels"]
    return list(value) if isinstance(value, list | tuple) else [value]


def _count_zeros(network: nn.Module) -> tuple[int, int]:
    convs = [module.weight.detach() for module in network.modules() if isinstance(module, nn.Conv2d)]
    return sum(int((weight == 0).flatten(1).all(1).sum()) for weight in convs), sum(map(len, convs))


def _keep_zeros(config: Config, zeros: tuple[int, int], wanted: bool) -> list[str]:
    zero, filters = zeros
    hooks = list(config.get("custom_hooks") or [])
    prunes = bool(config.get("prune")) or bool(places_of_pruning(config))
    if wanted and not zero:
        raise UsageError(f"--keep-zeros: none of the {filters} filters of the backbone is zero")
    if wanted and prunes:
        raise UsageError("--keep-zeros adds a FilterPruningHook, but the config's hooks have one: take one out")
    if wanted:
        config.custom_hooks = [*hooks, copy.deepcopy(_KEEP_ZEROS)]
    elif zero and not prunes:
        return [f"{zero} of {filters} filters are zero and may be trained again; --keep-zeros keeps them"]
    return []


def _compare_images(config: Config, settings: BackboneSettings, source: BackboneSource) -> list[str]:
    """Tell of differences between what the backbone was trained on and what it will see."""
    notes = []
    if source.settings is not None:
        ours, theirs = (one.get("style", "pytorch") for one in (settings, source.settings))
        if ours != theirs and "ResNe" in settings.class_name:
            notes.append(
                f"model.backbone.style is {ours!r} but the backbone was trained with {theirs!r}, with strides in "
                f"other layers: set model.backbone.style={theirs!r}"
            )
    if source.images is None:
        return notes
    images = images_of_config(config)
    found = differences(images, source.images)
    # A config without normalisation, or a checkpoint that tells of none, may have it elsewhere.
    notes += [
        f"data_preprocessor.{name} is {list(one)} but the backbone was trained with {list(other)}"
        for name in ("mean", "std")
        if name in found and (one := getattr(images, name)) and (other := getattr(source.images, name))
    ]
    if "colours" in found and images.mean is not None:
        flag = images.flag_for(source.images.colours)
        name = "bgr_to_rgb" if config.get("default_scope") in ("mmdet", "mmseg") else "to_rgb"
        fix = "" if flag is None else f": set data_preprocessor.{name}={flag}"
        notes.append(
            f"the order of colours differs from the backbone's training: it saw {source.images.describe()}; here it "
            f"sees {images.describe()}{fix}"
        )
    return notes
