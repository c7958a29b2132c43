"""What a process that imported mmkdprune adds to MMEngine's configs and runners."""

import copy
from collections.abc import Callable
from typing import Any

from mmkdprune.checkpoint.optimizer_state import check_optimizer_state
from mmkdprune.compat.patching import patch
from mmkdprune.compat.stacks import FORK, MODULES, distributions_of, stack_of
from mmkdprune.compat.unreadable_images import patch_image_loading
from mmkdprune.compat.versions import require_scope

from .gradient_buckets import plain_memory_format


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


def _with_standard_hooks(original: Callable) -> Callable:
    def register_hooks(self: Any, *args: Any, **kwargs: Any) -> None:
        from . import hooks

        patch_image_loading()  # MMCV is imported for it, which whoever only imports this package need not wait for
        original(self, *args, **kwargs)
        standard = (
            hooks.CheckClassesHook,
            hooks.CheckTeacherHook,
            hooks.CheckResumeHook,
            hooks.RandomStateHook,
            hooks.TrainOnlyAccuracyHook,
            hooks.TrainingLabelsHook,
            hooks.MetaStepHook,
            hooks.GradientBucketsHook,
            hooks.NonFiniteLossHook,
        )
        for hook_class in standard:
            if not any(isinstance(hook, hook_class) for hook in self.hooks):
                self.register_hook(hook_class())

    return register_hooks


def patch_runner_hooks() -> None:
    """Gives every runner the checks and hooks that this package relies on, unless its config has them.

    The package may be imported as late as while the runner builds its model; hooks are registered after that.
    """
    from mmengine.runner import Runner

    patch(Runner, "register_hooks", _with_standard_hooks)


def _with_checks_and_speed(original: Callable) -> Callable:
    def from_cfg(cls: type, cfg: Any) -> Any:
        require_scope(cfg.get("default_scope"))
        if cfg.get("default_scope") == "mmseg":
            from mmkdprune.compat.segmentation_masks import patch_masks

            patch_masks()
        if cfg.get("speed") is None:
            return original(cls, cfg)
        from .speed import apply_speed

        cfg = copy.deepcopy(cfg)
        lines = apply_speed(cfg)
        runner = original(cls, cfg)
        for line in lines:
            runner.logger.info(line)
        return runner

    return from_cfg


def _without_empty_scaler(original: Callable) -> Callable:
    def load_state_dict(self: Any, state_dict: dict) -> None:
        check_optimizer_state(self.optimizer, state_dict)
        # A run without loss scaling (bfloat16) saves {}, which a scaler refuses to read.
        if state_dict.get("loss_scaler") == {}:
            state_dict = {name: value for name, value in state_dict.items() if name != "loss_scaler"}
        original(self, state_dict)

    return load_state_dict


def patch_loss_scaler() -> None:
    """Lets a run in float16 go on from a checkpoint in bfloat16 (of another GPU); refuses that of another optimizer."""
    from mmengine.optim import AmpOptimWrapper

    patch(AmpOptimWrapper, "load_state_dict", _without_empty_scaler)


def _in_plain_format(original: Callable) -> Callable:
    def _init_model_weights(self: Any) -> None:
        from .wrappers import unwrapped

        with plain_memory_format(unwrapped(self.model)):
            original(self)

    return _init_model_weights


def patch_initialisation() -> None:
    """Lets a seed give the same initial weights in all memory formats."""
    from mmengine.runner import Runner

    patch(Runner, "_init_model_weights", _in_plain_format)


def patch_runner_config() -> None:
    """Lets every runner that is built from a config understand its ``speed`` field (:mod:`mmkdprune.engine.speed`).

    Of a package that it needs and that is absent or refuses this MMCV, it says at once what to install.
    """
    from mmengine.runner import Runner

    patch(Runner, "from_cfg", _with_checks_and_speed)
