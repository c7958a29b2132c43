"""The ``prune`` field of a config: the arguments of ``FilterPruningHook``, without touching the config's hooks.

``custom_hooks`` of a config replace those of its bases, and with them a stock config's EMA or switch of pipelines.
Hence the hook joins ``default_hooks``, which are merged. ``prune`` is a key of its own, since MMEngine refuses
``_base_`` lists whose files share one.
"""

from collections.abc import Mapping
from typing import Any

from mmkdprune.config.hooks import PRUNING_HOOK, places_of_pruning

_KEY = "pruning"
_ONE = "one run has one pruner, whose state is in its checkpoints"


def use_prune(
    config: Any,
    method: str,
    rate: float | None = None,
    coupling: str | None = None,
    target: Mapping[str, float] | None = None,
    ranking: str | None = None,
) -> None:
    """Prune what a config trains; what its own ``prune`` field says beside that stays.

    Args:
        config (Config | dict): Changed in place.
        method (str): Name of a published method, such as ``'ghfp-asrfp'``.
        rate (float, optional): Share of filters to remove. Defaults to what the config says.
        coupling (str, optional): ``'group'`` or ``'independent'``. Defaults to what the config says, else ``'group'``.
        target (Mapping[str, float], optional): What the compact network may cost, in place of a rate:
            ``dict(macs=0.5)``.
        ranking (str, optional): ``'layer'`` or ``'global'``. Defaults to what the config says, else ``'layer'``.

    Raises:
        ValueError: If there is neither a rate nor a target.
    """
    given = _arguments(config.get("prune") or {})
    pruner = dict(given.get("pruner") or {})
    pruner["method"] = method
    if rate is not None or target is not None:
        pruner = {name: value for name, value in pruner.items() if name not in ("rate", "rate_map", "target")}
        pruner |= {"rate": rate} if rate is not None else {"target": dict(target or {})}
    if coupling is not None or "coupling" not in pruner:
        pruner["coupling"] = coupling or "group"
    if ranking is not None:
        pruner["ranking"] = ranking
    if not {"rate", "target"} & pruner.keys():
        raise ValueError(
            f"--prune {method} needs --rate, the share of filters to remove (--rate 0.4, say), or --target-macs, the "
            "share of the operations to be left (--target-macs 0.5; likewise --target-params, --target-latency)"
        )
    config["prune"] = {"evaluate_finalize": True, **given, "pruner": pruner}


def apply_prune(config: Any) -> None:
    """Rewrite the ``prune`` field into a hook among ``default_hooks``; a config without the field is left as it is.

    Args:
        config (Config | dict): Changed in place; its ``prune`` is gone afterwards.

    Raises:
        ValueError: If the field is not a dict, or the config has a pruning hook beside it.
    """
    if config.get("prune") is None:
        return
    arguments = _arguments(config["prune"])
    found = places_of_pruning(config)
    if found:
        raise ValueError(
            f"prune: the config has a {PRUNING_HOOK} in {found[0]} already, and {_ONE}: take one of them out"
        )
    config.pop("prune")
    hooks = config.get("default_hooks") or {}
    config["default_hooks"] = {**hooks, _KEY: {"type": f"mmkdprune.{PRUNING_HOOK}", **arguments}}


def check_single(config: Any) -> None:
    """Refuse two pruning hooks.

    Args:
        config (Config | dict): Of a run.

    Raises:
        ValueError: There are two.
    """
    found = places_of_pruning(config)
    if len(found) > 1:
        raise ValueError(
            f"the config has a {PRUNING_HOOK} in {' and in '.join(found)}, but {_ONE}: take one of them out"
        )


def _arguments(prune: Any) -> dict[str, Any]:
    if not isinstance(prune, Mapping):
        raise ValueError(
            f"prune must be a dict of arguments of {PRUNING_HOOK}, such as pruner=dict(...), got {prune!r}"
        )
    return dict(prune)
