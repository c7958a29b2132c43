"""The check of the OpenMMLab stack at import: what is wrong, all of it at once, and the command that mends it.

The stack is no hard requirement of the package (a pin would install upstream over a user's fork), so its versions are
checked here. Reading them imports nothing: mmcv and mmpretrain cost seconds. :func:`require` does import a package.
"""

import importlib
import importlib.metadata
import importlib.util
import re
import runpy
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from .stacks import (
    FORK,
    FORK_TORCH,
    UPSTREAM,
    Distributions,
    find_duplicates,
    find_mixtures,
    install_command,
    installed_distributions,
    stack_of,
)

# The oldest version of each module.
REQUIRED = {"torch": "2.1", "mmengine": "0.10.0", "mmcv": "2.0.0", "mmpretrain": "1.0.0"}
OPTIONAL = ("mmcls", "numpy", "pkg_resources", "pycocotools", "transformers", "wrapt")
LAST_GOOD_TRANSFORMERS = "4.50"
REPORT = "mmkdprune.env"
# Packages that configs may need and this one does not, with the extra that installs them and what they forget to ask
# for.
EXTRAS = {"mmdet": ("det", ()), "mmseg": ("seg", ("ftfy", "regex"))}


class StackError(ImportError):
    """A package of the stack that is needed is missing, or does not fit to the others; the text says what to do."""


def is_command() -> bool:
    """Return whether Python was started as ``mmkdprune``, ``python -m mmkdprune`` or ``python -m mmkdprune.env``.

    These check by themselves: help and the report of the environment work where the check refuses.
    """
    program = Path(sys.argv[0]).name if getattr(sys, "argv", None) else ""
    if program == "-m":  # while a module's packages are imported, in place of the module's file
        module = sys.orig_argv[sys.orig_argv.index("-m") + 1] if "-m" in sys.orig_argv[:-1] else ""
        return module in ("mmkdprune", REPORT)
    return program in ("mmkdprune", "mmkdprune.exe")


def check_versions(
    versions: Mapping[str, str | None] | None = None,
    distributions: Distributions | None = None,
    mmcv_limit: str | None = None,
) -> None:
    """Check that the OpenMMLab stack is installed, new enough, and no mixture of upstream and forks.

    Args:
        versions: Version of every module of ``REQUIRED`` and ``OPTIONAL``, None where it is absent. By default the
            versions of this environment.
        distributions: The distributions that each module comes from. By default those of this environment, or
            none where ``versions`` is given.
        mmcv_limit: Version of MMCV from which on the installed MMDetection refuses it; None for no limit. Read from
            MMDetection where ``versions`` is not given.

    Raises:
        StackError: If something is missing, too old, refused or mixed; the message names every problem and the command
            that fixes it.
    """
    if distributions is None:
        distributions = installed_distributions() if versions is None else {}
    if versions is None:
        versions, mmcv_limit = installed_versions(), limit_of_mmcv("mmdet")
    problems = [*find_mixtures(distributions), *find_problems(versions, distributions, mmcv_limit)]
    if problems:
        lines = ["mmkdprune cannot work in this environment:", *(f"  - {problem}" for problem in problems)]
        if all(versions.get(module) is None for module in ("mmengine", "mmcv", "mmpretrain")):
            lines.append('The whole stack at once, in a fresh environment: pip install "mmkdprune[openmmlab]"')
        lines.append(f"All versions, and what to do: python -m {REPORT}")
        raise StackError("\n".join(lines))
    for trap in (*find_duplicates(distributions), *find_traps(versions)):
        warnings.warn(trap, stacklevel=3)


def installed_versions() -> dict[str, str | None]:
    """Return the version of every module of ``REQUIRED`` and ``OPTIONAL``, None where it is absent."""
    return {module: installed_version(module) for module in (*REQUIRED, *OPTIONAL)}


def find_problems(
    versions: Mapping[str, str | None], distributions: Distributions | None = None, mmcv_limit: str | None = None
) -> list[str]:
    """Return one line for each module that is missing, too old or refused by another.

    Args:
        versions: As in :func:`check_versions`.
        distributions: Likewise. None of them by default.
        mmcv_limit: Likewise.
    """
    problems = []
    stack = stack_of(distributions or {})
    for module, minimum in REQUIRED.items():
        if module == "torch":
            minimum = FORK_TORCH if stack == FORK else minimum
            fix = f'pip install "torch>={minimum}" torchvision'
        else:
            fix = install_command([module], stack)
        version = versions.get(module)
        if version is None:
            problem = f"{module} is not installed (needed: >= {minimum})."
            if module == "mmpretrain" and versions.get("mmcls") is not None:
                problem += f" mmcls {versions['mmcls']} is its old name and does not replace it."
        elif release(version) < release(minimum):
            problem = f"{module} {version} is too old (needed: >= {minimum})."
            if module == "mmcv":
                problem += " It belongs to OpenMMLab 1.x, like mmcls and MMDetection 2.x: best use a fresh environment."
                fix = f"pip uninstall -y mmcv mmcv-full mmcls && {fix}"
        else:
            continue
        problems.append(f"{problem} Fix: {fix}")
    mmcv = versions.get("mmcv")
    if mmcv is not None and mmcv_limit is not None and release(mmcv) >= release(mmcv_limit):
        problems.append(
            f"mmcv {mmcv} is refused by the installed mmdet, which takes < {mmcv_limit}, and mmpretrain imports mmdet "
            f"where it is installed. Fix: {_other_mmcv(distributions or {})}"
        )
    needs_pkg_resources = versions.get("mmengine") is not None and stack != FORK
    if needs_pkg_resources and versions.get("pkg_resources") is None:
        problems.append('pkg_resources, which MMEngine imports, is missing. Fix: pip install "setuptools<82"')
    if versions.get("wrapt") is None:  # a requirement of this package; a checkout on PYTHONPATH brings none along
        problems.append("wrapt is not installed. Fix: pip install wrapt")
    return problems


def find_traps(versions: Mapping[str, str | None]) -> list[str]:
    """Return one line for each module that is known to break the stack in some of its uses.

    Args:
        versions: As in :func:`check_versions`.
    """
    traps = []
    torch, numpy = versions.get("torch"), versions.get("numpy")
    if torch is not None and numpy is not None and release(torch) < (2, 3, 0) and release(numpy) >= (2, 0, 0):
        traps.append(f'torch {torch} was built for NumPy 1 and this is NumPy {numpy}. Fix: pip install "numpy<2"')
    transformers = versions.get("transformers")
    too_new = transformers is not None and release(transformers)[:2] > release(LAST_GOOD_TRANSFORMERS)[:2]
    if too_new and versions.get("pycocotools") is not None:  # both together switch MMPretrain's multimodal models on
        traps.append(
            f"transformers {transformers} is known to break `import mmpretrain` (its multimodal models). "
            f'Fix: pip uninstall -y transformers, or pip install "transformers<={LAST_GOOD_TRANSFORMERS}"'
        )
    if versions.get("mmcls") is not None:
        traps.append(
            f"mmcls {versions['mmcls']}, the old name of mmpretrain, is installed as well and may refuse this mmcv. "
            "Fix: pip uninstall -y mmcls"
        )
    return traps


def installed_version(module: str) -> str | None:
    """Return the version of ``module``, or None if it is not installed.

    The module that would be imported counts, whatever distribution it comes from: mmcv, mmcv-lite, mmcv-full, a fork,
    a checkout on ``PYTHONPATH``. It is imported only if it has no readable ``version.py``.

    Args:
        module: Name of a top-level module.
    """
    loaded = sys.modules.get(module)
    if loaded is None:
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:  # no origin: a plain folder of that name, in the working directory say
            return None
        version_file = Path(spec.origin).with_name("version.py")
        try:
            return str(runpy.run_path(str(version_file))["__version__"])
        except Exception:  # no such file, or one that does more than to state the version
            pass
        if module in OPTIONAL:
            try:
                return importlib.metadata.version(module)
            except importlib.metadata.PackageNotFoundError:
                return "of unknown version"
        loaded = require(module)
    return str(getattr(loaded, "__version__", "of unknown version"))


def limit_of_mmcv(module: str) -> str | None:
    """Return the version of MMCV from which on an installed package refuses it, or None; the package is not imported.

    Args:
        module: ``'mmdet'`` or ``'mmseg'``.
    """
    spec = importlib.util.find_spec(module) if module not in sys.modules else None
    if spec is None or spec.origin is None:  # absent, or imported already and hence content
        return None
    text = Path(spec.origin).read_text(encoding="utf-8")
    match = re.search(r"^(?:mmcv_maximum_version|MMCV_MAX)\s*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    return match[1] if match else None


def require(module: str) -> ModuleType:
    """Import ``module``; an error raised inside it is passed on with its own text, under its name and with its fix.

    Args:
        module: Name of a module, ``'mmpretrain.models'`` say.

    Raises:
        StackError: If the module cannot be imported, for whatever reason (packages of the stack raise
            ``AssertionError`` for versions they refuse and ``KeyError`` for names registered twice).
    """
    try:
        return importlib.import_module(module)
    except Exception as error:
        fix = _fix_of_import(module.split(".")[0], error)
        if isinstance(error, ModuleNotFoundError) and error.name == module.split(".")[0]:
            text = f"mmkdprune needs {error.name} for this, and it is not installed."
        else:
            own = f"{type(error).__name__}: {error}"
            text = f"mmkdprune needs {module}, and importing it failed. Its own error: {own}"
        raise StackError(f"{text} Fix: {fix}" if fix else text) from error


def require_scope(scope: str | None) -> None:
    """Import the package to whose models a config's ``default_scope`` leads, if it is one of ``EXTRAS``.

    Args:
        scope: The field's value.

    Raises:
        StackError: If the package cannot be imported; see :func:`require`.
    """
    if scope in EXTRAS:
        require(scope)


def _fix_of_import(package: str, error: Exception) -> str | None:
    """The command that mends a failed import of ``package``, where it is known."""
    extra, undeclared = EXTRAS.get(package, (None, ()))
    if extra and isinstance(error, ModuleNotFoundError) and error.name in (package, *undeclared):
        if stack_of(installed_distributions()) == FORK:  # the extra would put upstream beside the fork
            return " ".join([install_command([package], FORK), *undeclared])
        return f'pip install "mmkdprune[{extra}]"'
    refused = isinstance(error, AssertionError) and str(error).startswith("MMCV==")
    # a compiled MMCV for another PyTorch: an undefined symbol, or a library that is not there
    broken = isinstance(error, ImportError) and "mmcv" in str(error) and "_ext" in str(error) and ".so" in str(error)
    if (extra and refused) or broken:
        return _other_mmcv(installed_distributions())
    return None


def _other_mmcv(distributions: Distributions) -> str:
    """The command that replaces the installed MMCV by one for MMDetection and MMSegmentation."""
    if stack_of(distributions) == FORK:
        return install_command(["mmcv"], FORK)
    others = [name for name in distributions.get("mmcv", ()) if name != "mmcv-lite"]
    return " && ".join([*(f"pip uninstall -y {name}" for name in others), install_command(["mmcv"], UPSTREAM)])


def release(version: str) -> tuple[int, ...]:
    """Return the release numbers of a version, three of them: ``'2.1.0rc3+cu121'`` gives ``(2, 1, 0)``.

    Args:
        version: A version string; one without numbers counts as newer than anything.
    """
    match = re.match(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?", version)
    return tuple(int(part or 0) for part in match.groups()) if match else (sys.maxsize, 0, 0)
