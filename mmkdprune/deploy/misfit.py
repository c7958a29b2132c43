"""What is said of a backbone that does not fit into a config: the field, the value and what to do."""

import re
from collections import Counter
from typing import Any

from torch import nn

from mmkdprune.checkpoint.keys import KeyReport, select_keys
from mmkdprune.checkpoint.loading import load_checkpoint_file
from mmkdprune.errors import UsageError

from .settings import BackboneSettings
from .source import BackboneSource


def refuse_other_depth(settings: BackboneSettings, source: BackboneSource) -> None:
    """Refuse a backbone that says of itself that it has another depth than the config's.

    Args:
        settings: Of the config's backbone.
        source: The checkpoint.

    Raises:
        UsageError: The depths differ.
    """
    if source.settings is None:
        return
    ours, theirs = settings.get("depth"), source.settings.get("depth")
    if ours is not None and theirs is not None and ours != theirs:
        raise UsageError(
            f"model.backbone.depth is {ours!r} in the config, but the backbone in {source.path} has depth {theirs!r}: "
            f"set it with --cfg-options model.backbone.depth={theirs} (neck and heads follow), or give another "
            "checkpoint"
        )


def refuse_misfit(
    report: KeyReport, network: nn.Module, source: BackboneSource, prefix: str | None, partial: bool
) -> None:
    """Refuse a backbone that does not fill the config's.

    Args:
        report: What was loaded.
        network: The config's backbone.
        source: The checkpoint.
        prefix: Leading part of its keys; None for none.
        partial: Accept keys that are missing or left over.

    Raises:
        UsageError: A width differs, or keys are missing or left over.
    """
    name = type(network).__name__
    if report.mismatched:
        key = report.mismatched[0]
        content = load_checkpoint_file(source.path, map_location="cpu")
        weights = select_keys(content.get("state_dict", content), prefix)
        # Some backbones rename keys while they load.
        theirs = str(tuple(weights[key].shape)) if key in weights else "another shape"
        raise UsageError(
            f"{len(report.mismatched)} layers of the backbone have other widths: {key} is {theirs} in "
            f"{source.path}, {tuple(network.state_dict()[key].shape)} in the config's {name}. A compact backbone "
            "needs its plan (--plan plan.json, which mmkdprune compact wrote beside the checkpoint); of a wider or "
            "narrower dense one set base_channels or the like in model.backbone"
        )
    if partial:
        return
    found, wanted = (_blocks(keys) for keys in ([*report.matched, *report.unexpected], network.state_dict()))
    depth = f" The file has {found} blocks in its stages, {name} {wanted}: set the depth." if found != wanted else ""
    raise UsageError(
        f"the backbone in {source.path} is not the config's {name}: {report.line()}.{depth} Set model.backbone to the "
        "network that was trained, or accept what fits with --partial"
    )


def _blocks(keys: Any) -> list[int]:
    """Blocks of each stage of a residual network."""
    found = {match.groups() for key in keys if (match := re.match(r"layer(\d+)\.(\d+)\.", key))}
    stages = Counter(stage for stage, _ in found)
    return [stages[stage] for stage in sorted(stages, key=int)]
