"""Hooks that a config drops from its base without saying so."""

import os
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .hooks import hook_name
from .shipped import configs_folder


def dropped_hooks(config: Any) -> list[str]:
    """Find hooks of a base that a user's config has replaced by naming ``custom_hooks`` of its own.

    MMEngine replaces lists as a whole. Configs in installed packages are taken to mean what they do, and an empty list
    is taken to be meant.

    Args:
        config (Config): Read from a file; others have no bases.

    Returns:
        list[str]: A warning for each file in the chain of bases that drops some.
    """
    file = getattr(config, "filename", None)
    if not file or not os.path.isfile(file) or Path(file).suffix != ".py":
        return []
    return _dropped_by(str(file), set())


def _dropped_by(file: str, seen: set[str]) -> list[str]:
    if file in seen or _is_shipped(file):
        return []
    seen.add(file)
    bases = [Config._get_cfg_path(base, file)[0] for base in Config._get_base_files(file)]
    if not bases:
        return []
    warnings = [text for base in bases for text in _dropped_by(str(base), seen)]
    own = Config.fromfile(file).get("custom_hooks")
    if not own:
        return warnings
    kept = set(map(hook_name, own))
    for base in bases:
        lost = [name for name in map(hook_name, Config.fromfile(base).get("custom_hooks") or ()) if name not in kept]
        if lost:
            warnings.append(
                f"{file}: its custom_hooks replace those of {base}, so that {', '.join(lost)} will not run. Repeat "
                "them in the list, or add the new hook through default_hooks=dict(name=dict(type=...)), which are "
                "merged; pruning has mmkdprune::_base_/prune.py and --prune for it"
            )
    return warnings


def _is_shipped(file: str) -> bool:
    path = Path(file).resolve()
    return ".mim" in path.parts or path.is_relative_to(configs_folder().resolve())
