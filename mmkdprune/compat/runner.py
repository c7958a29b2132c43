"""What a process that imported mmkdprune adds to MMEngine's configs and runners."""

from collections.abc import Callable
from typing import Any

from .patching import patch


def register_package() -> None:
    """Lets configs inherit from this package's: ``_base_ = ['mmkdprune::mixskd/...py']``."""
    from mmengine.config import Config
    from mmengine.config.utils import MODULE2PACKAGE

    # A module instead of the distribution's name: MMEngine then finds the folder in a wheel, an editable install and
    # on PYTHONPATH alike.
    MODULE2PACKAGE.setdefault("mmkdprune", "mmkdprune.version")
    patch(Config, "_get_cfg_path", _without_scope)


def _without_scope(original: Callable) -> Callable:
    """MMEngine marks what a config inherits from another package with that package's scope.

    Most types in this package's configs are MMPretrain's, and its own carry their scope in the name.
    """

    def get_cfg_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        path, scope = original(cfg_path, filename)
        return path, None if scope == "mmkdprune" else scope

    return get_cfg_path


def _with_standard_hooks(original: Callable) -> Callable:
    def register_hooks(self: Any, *args: Any, **kwargs: Any) -> None:
        from mmkdprune.engine import hooks

        original(self, *args, **kwargs)
        standard = (hooks.RandomStateHook, hooks.TrainOnlyAccuracyHook, hooks.TrainingLabelsHook, hooks.MetaStepHook)
        for hook_class in standard:
            if not any(isinstance(hook, hook_class) for hook in self.hooks):
                self.register_hook(hook_class())

    return register_hooks


def patch_runner_hooks() -> None:
    """Gives every runner the hooks that models of this package rely on, unless its config has them.

    The package may be imported as late as while the runner builds its model; hooks are registered after that.
    """
    from mmengine.runner import Runner

    patch(Runner, "register_hooks", _with_standard_hooks)
