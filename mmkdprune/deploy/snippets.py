"""The lines that load an exported backbone into a config of MMPretrain, MMDetection or MMSegmentation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.nn as nn

from mmkdprune.models.branches.stages import find_stage_protocol

from .settings import BackboneSettings, class_name

# Backbones whose keys are the same in all three packages, and the settings that decide about parameters, by
# MMPretrain's name, under the name that MMDetection and MMSegmentation give them.
_SHARED = {name: name for name in ("depth", "in_channels", "stem_channels", "base_channels", "num_stages", "style")}
_SHARED |= {"avg_down": "avg_down", "norm_cfg": "norm_cfg", "conv_cfg": "conv_cfg"}
_STOCK_NAMES = {
    "mmpretrain.ResNet": _SHARED,
    "mmpretrain.ResNeXt": _SHARED | {"groups": "groups", "width_per_group": "base_width"},
}
_STOCK_DEFAULTS: dict[str, dict[str, Any]] = {"mmpretrain.ResNeXt": {"groups": 32, "width_per_group": 4}}


def init_cfg_snippets(meta: Mapping[str, Any], path: str | Path, backbone: nn.Module) -> dict[str, str]:
    """Lines to paste, one text for each package.

    Args:
        meta: Of the export; ``meta['model']['backbone']`` is the backbone's config.
        path: The exported file.
        backbone: The backbone itself, which knows how many stages it has.

    Returns:
        Config lines by package: ``mmpretrain``, ``mmdet``, ``mmseg``.
    """
    return backbone_assignments(meta["model"]["backbone"], path, backbone)


def backbone_assignments(settings: Mapping[str, Any], path: str | Path, backbone: nn.Module) -> dict[str, str]:
    """Lines that build a backbone, dense or compact, and load it from a file.

    Args:
        settings: The backbone's config.
        path: The file; of a compact backbone, it holds the plan as well.
        backbone: The backbone itself.

    Returns:
        Config lines by package: ``mmpretrain``, ``mmdet``, ``mmseg``.
    """
    parsed = BackboneSettings.parse(settings)
    dense, compact_type = parsed.dense, settings["type"] if parsed.is_compact else None
    init_cfg = {"type": "Pretrained", "checkpoint": str(Path(path).resolve()), "prefix": "backbone."}
    own = _replacing(dense, compact_type, init_cfg) if parsed.is_compact else _inheriting(dense, None, init_cfg)
    snippets = {"mmpretrain": _assign(own)}
    stages, channels = _stages(backbone)
    indices = {"out_indices": tuple(range(stages))}
    if _has_stock_twin(dense):
        own = _inheriting(_stock(dense) | indices, compact_type, init_cfg)
        note = "# type='ResNet', not the ResNetV1c of MMSegmentation's base configs: that has another (deep) stem\n"
        notes = {"mmdet": "", "mmseg": note}
    else:
        own = _replacing({**dense, **(indices if stages else {})}, compact_type, init_cfg)
        note = f"# {parsed.class_name} is no class of the package itself: replace the inherited backbone\n"
        notes = {"mmdet": note, "mmseg": note}
    snippets |= {name: note + _assign(own) for name, note in notes.items()}
    snippets["mmseg"] += "\nmodel['pretrained'] = None"
    if channels:
        line = f"\n# channels of the {stages} feature maps, for in_channels of the neck and heads: {channels}"
        if parsed.is_compact:
            snippets["mmdet"] += f"\nmodel['neck'] = dict(in_channels={channels})"
            snippets["mmseg"] += f"\nmodel['decode_head'] = dict(in_channels={channels[-1]})"
            snippets["mmseg"] += f"\nmodel['auxiliary_head'] = dict(in_channels={channels[-2]})"
        snippets |= {name: snippets[name] + line for name in ("mmdet", "mmseg")}
    return snippets


def _inheriting(dense: Mapping[str, Any], compact_type: str | None, init_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Changes to a config of the same network: what it says of strides, freezing etc. stays."""
    if compact_type is None:
        return {**dense, "init_cfg": init_cfg}
    rest = {key: value for key, value in dense.items() if key != "type"}
    return {"type": compact_type, "backbone": dense["type"], **rest, "init_cfg": init_cfg}


def _replacing(dense: Mapping[str, Any], compact_type: str | None, init_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """A whole backbone, in the place of an inherited one."""
    if compact_type is None:
        return {"_delete_": True, **dense, "init_cfg": init_cfg}
    plan = init_cfg["checkpoint"]
    return {"_delete_": True, "type": compact_type, "backbone": dense, "plan": plan, "init_cfg": init_cfg}


def _stages(backbone: nn.Module) -> tuple[int, list[int]]:
    """Number of stages that ``out_indices`` can name, and their channels in what is returned; 0 where not known."""
    if not (hasattr(backbone, "num_stages") and hasattr(backbone, "out_indices")):
        return 0, []
    protocol = find_stage_protocol(backbone)
    if protocol.num_stages != backbone.num_stages:
        return 0, []
    return protocol.num_stages, protocol.output_channels(backbone)


def _has_stock_twin(settings: Mapping[str, Any]) -> bool:
    # MMPretrain's deep stem is made of ConvModules and has keys of its own.
    plain = not settings.get("deep_stem") and settings.get("expansion") is None
    return plain and settings.get("type") in _STOCK_NAMES


def _stock(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The backbone as a class of MMDetection or MMSegmentation; strides, freezing etc. are left to their configs."""
    names = _STOCK_NAMES[settings["type"]]
    given = _STOCK_DEFAULTS.get(settings["type"], {}) | dict(settings)
    return {"type": class_name(settings)} | {names[key]: value for key, value in given.items() if key in names}


def _assign(backbone: Mapping[str, Any]) -> str:
    return f"model = dict(backbone={_dict_call(backbone, 1)})"


def _dict_call(values: Mapping[str, Any], depth: int = 0) -> str:
    """``dict(a=1, b=dict(…))``, one argument a line at the outermost level."""
    first = ("_delete_", "type")
    names = [name for name in first if name in values] + [name for name in values if name not in first]
    items = [f"{name}={_literal(values[name])}" for name in names]
    if not depth:
        return f"dict({', '.join(items)})"
    return "dict(\n" + "".join(f"    {item},\n" for item in items) + ")"


def _literal(value: Any) -> str:
    if isinstance(value, Mapping) and all(isinstance(key, str) and key.isidentifier() for key in value):
        return _dict_call(value)
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        items = ", ".join(map(_literal, value))
        return f"[{items}]" if isinstance(value, list) else f"({items},)"
    return repr(value)
