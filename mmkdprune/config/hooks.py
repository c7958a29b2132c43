"""Which hooks a config has."""

from collections.abc import Mapping
from typing import Any

PRUNING_HOOK = "FilterPruningHook"


def hook_name(hook: Any) -> str:
    """Name of the class that a hook's settings name, without scope; empty for None.

    Args:
        hook (Any): An entry of ``custom_hooks`` or ``default_hooks``.
    """
    if hook is None:
        return ""
    kind = hook.get("type", "") if isinstance(hook, Mapping) else type(hook)
    return getattr(kind, "__name__", str(kind)).rpartition(".")[2]


def places_of_pruning(config: Any) -> list[str]:
    """Where a config has pruning hooks.

    Args:
        config (Config | dict): Of a run.

    Returns:
        list[str]: Such as ``'custom_hooks[1]'``.
    """
    custom = {f"custom_hooks[{index}]": hook for index, hook in enumerate(config.get("custom_hooks") or ())}
    default = {f"default_hooks.{name}": hook for name, hook in (config.get("default_hooks") or {}).items()}
    return [place for place, hook in {**custom, **default}.items() if hook_name(hook) == PRUNING_HOOK]
