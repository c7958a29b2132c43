"""MMEngine's ``compile`` setting, for models whose step holds a part that can be compiled."""

import inspect
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch

from mmkdprune.compat.patching import patch


def patch_compilation() -> None:
    """Lets a runner with ``compile=True`` compile the tensor part of a classifier's training step.

    MMEngine compiles ``train_step`` as a whole, which ends in dozens of small graphs. A model that offers
    ``compile_step(**options)`` and MMPretrain's ``ImageClassifier`` are compiled in one; any other model as before.
    """
    from mmengine.runner import Runner

    patch(Runner, "_maybe_compile", _with_tensor_part)


def _with_tensor_part(original: Callable) -> Callable:
    def maybe_compile(self: Any, target: str) -> None:
        from .wrappers import unwrapped

        options = compile_options(self.cfg.get("compile"))
        model = unwrapped(self.model)
        if options is None or target != "train_step" or not _may_be_compiled(model):
            return original(self, target)
        from mmkdprune.models.utils.compilation import compile_training

        _check_compiler(options, next(model.parameters()).device.type)
        part = compile_training(model, **options)
        if part is None:
            return original(self, target)
        self.logger.info(
            f'Model has been "compiled": {part}. The first few iterations will be slow, please be patient. '
            "Validation runs as it is."
        )
        return None

    return maybe_compile


def compile_options(setting: Any) -> dict[str, Any] | None:
    """Read the top-level ``compile`` field of a config.

    Args:
        setting: ``None`` or a bool, or the arguments of ``torch.compile``.

    Returns:
        dict | None: The arguments; None where nothing is to be compiled.

    Raises:
        ValueError: It is neither, or an argument is unknown.
    """
    if setting is None or setting is False:
        return None
    if setting is True:
        return {}
    if not isinstance(setting, Mapping):
        raise ValueError(
            f"compile must be True, False or a dict of torch.compile's arguments, dict(mode='reduce-overhead') say, "
            f"got {setting!r}"
        )
    known = set(inspect.signature(torch.compile).parameters) - {"model"}
    unknown = sorted(set(setting) - known)
    if unknown:
        raise ValueError(f"compile has unknown argument(s) {unknown}; torch.compile knows {', '.join(sorted(known))}")
    return dict(setting)


def _may_be_compiled(model: Any) -> bool:
    """Whoever has no model of MMPretrain need not import it."""
    bases = type(model).__mro__
    return hasattr(model, "compile_step") or any(base.__module__.startswith("mmpretrain.") for base in bases)


def _check_compiler(options: Mapping[str, Any], device: str) -> None:
    """Say before training what inductor would say in the first iteration, in many lines."""
    if device != "cpu" or options.get("backend", "inductor") != "inductor" or sys.platform == "win32":
        return
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None and shutil.which("clang++") is None:
        raise ValueError(
            f"compile=True on a CPU needs a C++ compiler and there is no {compiler}: install g++, name one in the "
            "environment variable CXX, or train with compile=False"
        )
