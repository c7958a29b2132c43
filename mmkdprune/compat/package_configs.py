"""Configs that inherit from configs of this package, and of forks."""

from collections.abc import Callable

from .patching import patch
from .stacks import FORK, MODULES, distributions_of, stack_of


def register_package() -> None:
    """Lets configs inherit from this package's (``_base_ = ['mmkdprune::mixskd/...py']``), and from those of forks."""
    from mmengine.config import Config
    from mmengine.config.utils import MODULE2PACKAGE

    # A module instead of the distribution's name: MMEngine then finds the folder in a wheel, an editable install and
    # on PYTHONPATH alike.
    MODULE2PACKAGE.setdefault("mmkdprune", "mmkdprune.version")
    # Likewise for a fork: MMEngine does not find it under upstream's name, and would install upstream over it.
    for module in MODULES:
        if MODULE2PACKAGE.get(module, module) != module and stack_of({module: distributions_of(module)}) == FORK:
            MODULE2PACKAGE[module] = module
    patch(Config, "_get_cfg_path", _without_scope)


def _without_scope(original: Callable) -> Callable:
    """MMEngine marks what a config inherits from another package with that package's scope.

    Most types in this package's configs are MMPretrain's, and its own carry their scope in the name.
    """

    def get_cfg_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        path, scope = original(cfg_path, filename)
        return path, None if scope == "mmkdprune" else scope

    return get_cfg_path
