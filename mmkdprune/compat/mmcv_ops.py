"""Stand-in for MMCV's compiled extension, so that MMDetection and MMSegmentation work with mmcv-lite.

``mmcv.ops`` takes its operators from the module ``mmcv._ext``, which only a compiled MMCV has. Here a finder at the end
of Python's list offers one made of :mod:`mmkdprune.compat.operators`. It is asked only where every other finder failed:
compiled MMCV is never touched, and nothing is imported before somebody imports ``mmcv.ops``.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NoReturn

from .stacks import FORK, installed_distributions, stack_of

EXTENSION = "mmcv._ext"
UNKNOWN = "n/a"  # what MMCV reports itself where it knows no compiler
# What MMSegmentation sets to None, under these names or with an underscore, where it cannot import it.
GUARDED = ("CrissCrossAttention", "PSAMask", "point_sample", "sigmoid_focal_loss")
# Its heads that are derived from MMDetection's, and from BaseModule where those cannot be imported.
MASK_HEADS = ("Mask2Former", "MaskFormer")


class MissingOperatorError(NotImplementedError):
    """An operator was called that only compiled MMCV has."""


class OperatorModule(ModuleType):
    """The module ``mmcv._ext``; any operator can be looked up, as ``mmcv.ops`` does at import, but not all called."""

    def __getattr__(self, name: str) -> Callable:
        """Return a function that says what is missing, once it is called."""
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

        def missing(*args: Any, **kwargs: Any) -> NoReturn:
            raise MissingOperatorError(missing_operator_message(name))

        missing.__name__ = name
        return missing


class OperatorLoader(importlib.abc.Loader):
    """Makes the module ``mmcv._ext`` of the operators there are."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Return the empty module."""
        return OperatorModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Fill the module."""
        from .operators import OPERATORS

        vars(module).update(OPERATORS)
        module.__all__ = sorted(OPERATORS)  # type: ignore[attr-defined]
        module.get_compiler_version = lambda: UNKNOWN  # type: ignore[attr-defined]
        module.get_compiling_cuda_version = lambda: UNKNOWN  # type: ignore[attr-defined]


class OperatorFinder(importlib.abc.MetaPathFinder):
    """Finds ``mmcv._ext`` where nothing else did."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the stand-in's spec for that one name."""
        return importlib.machinery.ModuleSpec(fullname, OperatorLoader()) if fullname == EXTENSION else None


FINDER = OperatorFinder()


def supply_operators() -> None:
    """Makes ``mmcv.ops`` importable in this process where MMCV is not compiled; without effect where it is."""
    if FINDER not in sys.meta_path:
        sys.meta_path.append(FINDER)
    _mend_transformer()
    _mend_guarded_imports()
    _name_incomplete_heads()


def _mend_transformer() -> None:
    """Imported before the operators were there, this module lacks a name that MMDetection takes from it."""
    name = "MultiScaleDeformableAttention"
    transformer = sys.modules.get("mmcv.cnn.bricks.transformer")
    if transformer is None or name in vars(transformer):
        return

    def look_up(wanted: str) -> Any:
        if wanted != name:
            raise AttributeError(f"module {transformer.__name__!r} has no attribute {wanted!r}")
        return getattr(importlib.import_module("mmcv.ops.multi_scale_deform_attn"), name)

    transformer.__getattr__ = look_up  # type: ignore[method-assign]


def _mend_guarded_imports() -> None:
    """Imported before the operators were there, modules of MMSegmentation have None instead of some."""
    aliases = {alias: operator for operator in GUARDED for alias in (operator, f"_{operator}")}
    for module in [module for name, module in sys.modules.items() if name.startswith("mmseg.")]:
        for alias in [alias for alias in aliases if vars(module).get(alias, module) is None]:
            setattr(module, alias, getattr(importlib.import_module("mmcv.ops"), aliases[alias]))


def _name_incomplete_heads() -> None:
    """Of heads that were derived from nothing then, only a new process helps."""
    for head in MASK_HEADS:
        module = sys.modules.get(f"mmseg.models.decode_heads.{head.lower()}_head")
        base = vars(module).get(f"MMDET_{head}Head") if module is not None else None
        if getattr(base, "__name__", None) == "BaseModule" and importlib.util.find_spec("mmdet") is not None:
            warnings.warn(
                f"mmseg.models was imported where MMCV has no operators, and made its {head}Head without that of "
                "MMDetection: it does not work in this process. Fix: import mmkdprune before mmseg",
                stacklevel=2,
            )


def missing_operator_message(name: str) -> str:
    """Return what to say of an operator that the stand-in lacks.

    Args:
        name (str): Its name in ``mmcv._ext``.
    """
    if stack_of(installed_distributions()) == FORK:
        fix = "pip install --no-build-isolation --no-deps --force-reinstall onedl-mmcv, beside torch and a compiler"
    else:
        fix = (
            'pip uninstall -y mmcv-lite, then pip install "mmcv>=2.1.0,<2.2" as '
            "https://mmcv.readthedocs.io/en/latest/get_started/installation.html says (it compiles where no ready-made "
            "wheel fits the PyTorch version)"
        )
    return (
        f"{name} is an operator of compiled MMCV, and this environment has none (mmcv-lite, or a build without "
        f"operators). mmkdprune replaces those that detection and segmentation use; this is none of them. Fix: {fix}"
    )
