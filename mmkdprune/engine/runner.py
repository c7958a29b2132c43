"""What a process that imported mmkdprune adds to MMEngine's configs and runners."""

import copy
from collections.abc import Callable
from typing import Any

from mmkdprune.compat.patching import patch
from mmkdprune.compat.unreadable_images import patch_image_loading
from mmkdprune.compat.versions import require_scope

from .gradient_buckets import plain_memory_format


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


def _with_own_fields(original: Callable) -> Callable:
    def from_cfg(cls: type, cfg: Any) -> Any:
        require_scope(cfg.get("default_scope"))
        if cfg.get("default_scope") == "mmseg":
            from mmkdprune.compat.segmentation_masks import patch_masks

            patch_masks()
        from mmkdprune.config.dropped_hooks import dropped_hooks

        from .pruning.field import apply_prune, check_single
        from .speed import apply_speed

        check_single(cfg)
        dropped = dropped_hooks(cfg)
        lines: list[str] = []
        if cfg.get("speed") is not None or cfg.get("prune") is not None:
            cfg = copy.deepcopy(cfg)
            apply_prune(cfg)
            lines = apply_speed(cfg)
        runner = original(cls, cfg)
        for line in lines:
            runner.logger.info(line)
        for line in dropped:
            runner.logger.warning(line)
        return runner

    return from_cfg


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
    """Lets every runner that is built from a config understand its fields ``speed`` and ``prune``.

    They are explained in :mod:`mmkdprune.engine.speed` and :mod:`mmkdprune.engine.pruning.field`. It warns of hooks
    that the config has dropped from its bases. Of a package that it needs and that is absent or refuses this MMCV, it
    says at once what to install.
    """
    from mmengine.runner import Runner

    patch(Runner, "from_cfg", _with_own_fields)
