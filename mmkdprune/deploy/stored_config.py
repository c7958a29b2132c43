"""Networks that are rebuilt from a file: registered classes only, nothing imported, loaded or fetched on the way.

A checkpoint names its network by a config of plain data, and a registry would import and call any dotted name in it.
:func:`checked_config` refuses what is not a registered network class, by name and field, and takes file names and
addresses out; :func:`build_stored` builds the result while the registries themselves answer by registered names only.
"""

import importlib
import importlib.util
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.logging import print_log
from mmengine.registry import MODELS, DefaultScope, Registry
from torch import nn

from mmkdprune.compat.patching import patch

from .fetching import fetching_class

# Packages whose registries may be imported because a file names them; others must have been imported before.
_PACKAGES = ("mmkdprune", "mmpretrain", "mmdet", "mmseg")
# Where weights come from, how files are read, and what only training needs.
_LEFT_OUT = ("init_cfg", "pretrained", "backend_args", "file_client_args", "batch_augments")
_FILE_ARGUMENT = re.compile(r"(.*_)?(path|file|filename|dir|folder|root|url|uri|checkpoint|ckpt|repo|hub)")
_FILE_ENDING = re.compile(
    r".*\.(py|pkl|pickle|pth?|bin|npy|npz|json|ya?ml|txt|csv|safetensors|ckpt|h5|mat|onnx|zip|tar|gz)", re.IGNORECASE
)
_KEY = re.compile(r"[\w .:/-]*")
_PLAIN_TYPES = (type(None), bool, int, float, complex, str, torch.Tensor, torch.Size, torch.dtype)
_DEEPEST = 40
_HOW_TO_IMPORT = "A class of your own is known after its package is imported (--imports PACKAGE)."

_guarded: ContextVar[bool] = ContextVar("mmkdprune_registered_only", default=False)


class UnsafeConfigError(ValueError):
    """A file names something else than registered network classes."""


def checked_config(stored: Any, field: str, scope: str | None = None, registry: Registry = MODELS) -> Any:
    """Check the config of a network, or of a part of one, that comes from a file.

    Every ``type`` in it, at any depth, must be the registered name of an ``nn.Module`` class that fetches nothing
    itself. Names are looked up, never imported: of packages, only this one, MMPretrain, MMDetection and MMSegmentation
    are imported for it. ``init_cfg``, ``pretrained`` and every argument that names a file, an address or a repository
    are left out; what else was left out is logged.

    Args:
        stored (Any): Plain data. It stays as it is.
        field (str): Where it stands in the file, for messages: ``'model.backbone'``.
        scope (str, optional): Scope of the names without one. Defaults to None, ``mmpretrain``.
        registry (Registry): Any registry of the tree in which names are looked up. Defaults to ``MODELS``.

    Returns:
        Any: A copy. Full names of registered classes (of lazy configs) are replaced by the registered ones.

    Raises:
        UnsafeConfigError: If it names something else; the message has the field and the name.
        PlanError: If the plan of a compact backbone is not one.
    """
    left_out: list[str] = []
    checked = _check(stored, field, scope or "mmpretrain", registry, left_out, 0)
    if left_out:
        print_log(f"Not taken from the file's config, because they name files: {', '.join(left_out)}", logger="current")
    return checked


def build_stored(model: Mapping[str, Any]) -> nn.Module:
    """Build a network from a config that comes from a file.

    Args:
        model (Mapping[str, Any]): The config; its type names the scope of the other names in it.

    Returns:
        nn.Module: The network, with initial weights.

    Raises:
        UnsafeConfigError: See :func:`checked_config`.
    """
    scope = str(model.get("type")).partition(".")[0]
    checked = checked_config(model, "model", scope)
    with DefaultScope.overwrite_default_scope(scope), registered_only():
        return MODELS.build(ConfigDict(checked))


@contextmanager
def registered_only() -> Iterator[None]:
    """Let registries give only what :func:`checked_config` accepts, also for names that code makes while it runs.

    A constructor may take the name of a class as an ordinary string. Outside, registries are as ever.

    Raises:
        UnsafeConfigError: From a lookup inside.
    """
    patch(Registry, "get", _get_registered)
    token = _guarded.set(True)
    try:
        yield
    finally:
        _guarded.reset(token)


def refuse_unknown_packages(stored: Any, field: str) -> None:
    """Refuse types of what is not rebuilt, unless a package of OpenMMLab, or one in use, could have them.

    Args:
        stored (Any): A config, or a part of one, that comes from a file.
        field (str): Where it stands in the file.

    Raises:
        UnsafeConfigError: A type is of another package.
    """
    known = {registry.scope for registry in _tree(MODELS)} | set(MODULE2PACKAGE) | {"torch", "mmcv"}
    waiting = [(field, stored, 0)]
    while waiting:
        here, value, depth = waiting.pop()
        if depth > _DEEPEST:
            raise UnsafeConfigError(f"the stored config is nested too deeply at {here[:200]}")
        if isinstance(value, Mapping):
            waiting += [(f"{here}.{key}", item, depth + 1) for key, item in value.items()]
            for key in ("type", "_scope_"):
                package, _, rest = str(value.get(key)).partition(".")
                if package not in known and (rest or (key == "_scope_" and value.get(key) is not None)):
                    raise _refusal(f"{here}.{key}", value[key], "is not of OpenMMLab or of a package in use")
        elif isinstance(value, list | tuple):
            waiting += [(f"{here}.{index}", item, depth + 1) for index, item in enumerate(value)]


def _check(value: Any, field: str, scope: str, registry: Registry, left_out: list[str], depth: int) -> Any:
    if depth > _DEEPEST:
        raise UnsafeConfigError(f"the stored config is nested too deeply at {field[:200]}")
    if isinstance(value, Mapping):
        return _check_mapping(value, field, scope, registry, left_out, depth + 1)
    if isinstance(value, list | tuple | set | frozenset) and not isinstance(value, torch.Size):
        items = [
            _check(item, f"{field}.{index}", scope, registry, left_out, depth + 1) for index, item in enumerate(value)
        ]
        return items if isinstance(value, list) else tuple(items) if isinstance(value, tuple) else set(items)
    if isinstance(value, _PLAIN_TYPES):
        return value
    raise UnsafeConfigError(f"the stored config holds a {type(value).__name__} at {field}: only plain data are read")


def _check_mapping(
    settings: Mapping, field: str, scope: str, registry: Registry, left_out: list[str], depth: int
) -> dict[Any, Any]:
    settings = dict(settings)
    if settings.get("_scope_") is not None:
        scope = settings["_scope_"]
        if not isinstance(scope, str) or _scope_registry(scope, registry) is None:
            raise _refusal(f"{field}._scope_", scope, "is not the scope of an imported package")
    checked: dict[Any, Any] = {}
    if settings.get("type") is not None:
        found, settings["type"] = _resolve_type(settings["type"], f"{field}.type", scope, registry)
        checked["type"] = settings["type"]
        if found.__name__ == "LoRAModel":  # its targets have patterns of module names as types
            plain = (str, int, float, bool)
            checked["targets"] = [
                {key: value for key, value in dict(target).items() if isinstance(value, plain)}
                for target in settings.get("targets", ())
            ]
        if getattr(found, "takes_plan", False):
            _complete_compact(settings, checked, f"{field}.backbone", scope, registry)
    for key, value in settings.items():
        here = f"{field}.{key}"
        if not (isinstance(key, int) or (isinstance(key, str) and _is_key(key, "type" in settings))):
            raise UnsafeConfigError(f"the stored config has the key {key!r} in {field}, which is not a name")
        if key in checked or key in _LEFT_OUT:
            continue
        if _names_file(key, value):
            left_out.append(here)
            continue
        checked[key] = _check(value, here, scope, registry, left_out, depth)
    return checked


def _complete_compact(settings: dict, checked: dict, field: str, scope: str, registry: Registry) -> None:
    """Bring a compact backbone into its long form, with the plan, which is data by itself, in it."""
    from mmkdprune.pruning import load_plan

    if isinstance(settings.get("backbone"), str):
        _, name = _resolve_type(settings["backbone"], field, scope, registry)
        inner = {key: settings.pop(key) for key in list(settings) if key not in ("type", "plan", "init_cfg", "_scope_")}
        settings["backbone"] = inner | {"type": name}
    init_cfg = settings.get("init_cfg")
    plan = settings.get("plan") or (init_cfg.get("checkpoint") if isinstance(init_cfg, Mapping) else None)
    if plan is not None:
        checked["plan"] = load_plan(plan).to_dict()


def _is_key(key: str, is_argument: bool) -> bool:
    # A config's text quotes keys as they are, so one with a quotation mark would become code there.
    return key.isidentifier() if is_argument else _KEY.fullmatch(key) is not None


def _names_file(key: Any, value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_names_file(key, item) for item in value if isinstance(item, str))
    if not isinstance(value, str) or key in ("type", "_scope_"):
        return False
    is_place = any(sign in value for sign in ("/", "\\", "::")) or value.startswith("~")
    return is_place or bool(_FILE_ENDING.fullmatch(value) or _FILE_ARGUMENT.fullmatch(str(key)))


def _resolve_type(name: Any, field: str, scope: str, registry: Registry) -> tuple[type, str]:
    """The class behind a name, and the name to build it by."""
    if not isinstance(name, str):
        raise _refusal(field, name, "is not the name of a registered class")
    found = _look_up(name, scope, registry)
    if found is None:
        raise _refusal(field, name, "is not a registered network class")
    return _accepted(found[0], field, name), found[1]


def _accepted(found: Any, field: str, name: str) -> type:
    is_network = isinstance(found, type) and issubclass(found, nn.Module)
    if not is_network and not getattr(found, "takes_plan", False):
        raise _refusal(field, name, "is registered, but not as a network class (nn.Module)")
    if fetching_class(found):
        raise _refusal(field, name, "fetches code or weights itself, which no file may ask for", "")
    return found


def _refusal(field: str, name: Any, reason: str, advice: str = _HOW_TO_IMPORT) -> UnsafeConfigError:
    return UnsafeConfigError(
        f"the config stored in the file is refused: {field}={name!r} {reason}. Only registered network classes are "
        f"built from a file, and nothing is imported or run because a file names it. {advice}".strip()
    )


def _look_up(name: str, scope: str, registry: Registry) -> tuple[Any, str] | None:
    """A registered object and its name there; None where no registry has it."""
    package, _, rest = name.partition(".")
    owner = _scope_registry(package, registry) if rest else _scope_registry(scope, registry) or registry.root
    while owner is not None:  # as MMEngine does it: also in the registries above that of the scope
        owner.import_from_location()
        if (rest or name) in owner.module_dict:
            return owner.module_dict[rest or name], name
        owner = owner.parent
    if not rest:
        return None
    # The full name of a lazy config: of whatever is registered, what has this name in this package.
    for known in _tree(registry.root):
        for key, value in known.module_dict.items():
            is_named_so = getattr(value, "__name__", None) == name.rpartition(".")[2]
            if is_named_so and str(getattr(value, "__module__", "")).partition(".")[0] == package:
                return value, key if known is registry.root else f"{known.scope}.{key}"
    return None


def _scope_registry(scope: str, registry: Registry) -> Registry | None:
    """The registry of a scope; packages of OpenMMLab are imported for it, others are not."""
    if scope in _PACKAGES and importlib.util.find_spec(scope) is not None:
        importlib.import_module(f"{scope}.registry")
    return registry.root._search_child(scope)


def _tree(registry: Registry) -> Iterator[Registry]:
    yield registry
    for child in list(registry.children.values()):
        yield from _tree(child)


def _get_registered(original: Any) -> Any:
    def get(self: Registry, key: str) -> Any:
        if not _guarded.get():
            return original(self, key)
        where = f"(while the network is built) {self.name}"
        if self.root is MODELS:
            found = _look_up(key, self.scope, self)
            return None if found is None and "." not in key else _resolve_type(key, where, self.scope, self)[0]
        if self.root.name != "weight initializer" or "." in key or key == "Pretrained":
            raise _refusal(where, key, "is not a network class")
        return original(self, key)

    return get
