"""Where the modules of OpenMMLab come from: upstream or its maintained forks, and what may not lie together.

The forks have the same module names, so that both in one environment overwrite or miss each other's files. Nothing is
imported here: this runs before the modules are known to work.
"""

import contextlib
import importlib.metadata
import importlib.util
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

UPSTREAM, FORK = "OpenMMLab", "OneDL"
# Distributions of each module, the one to install first, and the versions that this package is made for. MMDetection
# 3.3 and MMSegmentation 1.2 refuse MMCV 2.2, and MMPretrain imports MMDetection. mmcv-lite is enough: see mmcv_ops.py.
STACKS: dict[str, dict[str, tuple[tuple[str, ...], str]]] = {
    UPSTREAM: {
        "mmengine": (("mmengine", "mmengine-lite"), ">=0.10.0,<1"),
        "mmcv": (("mmcv-lite", "mmcv", "mmcv-full"), ">=2.1.0,<2.2"),
        "mmpretrain": (("mmpretrain",), ">=1.0.0,<2"),
        "mmdet": (("mmdet",), ">=3.3.0,<4"),
        "mmseg": (("mmsegmentation",), ">=1.2.2,<2"),
    },
    FORK: {
        "mmengine": (("onedl-mmengine",), ">=0.10.12,<1"),
        "mmcv": (("onedl-mmcv",), ">=2.3.6,<2.4"),
        "mmpretrain": (("onedl-mmpretrain",), ">=1.3.6,<2"),
        "mmdet": (("onedl-mmdetection",), ">=3.5.1,<4"),
        "mmseg": (("onedl-mmsegmentation",), ">=1.4.2,<2"),
    },
}
MODULES = tuple(STACKS[UPSTREAM])
# The oldest PyTorch that the forks run on: their mixed precision calls torch.get_autocast_dtype.
FORK_TORCH = "2.4"

Distributions = Mapping[str, Sequence[str]]


def installed_distributions() -> dict[str, list[str]]:
    """Return the distributions that each module of the stack comes from: none for one that is absent or a checkout."""
    return {module: distributions_of(module) for module in MODULES}


def distributions_of(module: str) -> list[str]:
    """Return the installed distributions whose file is the one that ``import module`` would read.

    What another environment on the path has of the same name is out of sight of Python, and does not count. Two names
    mean that one distribution was installed over another.

    Args:
        module: One of ``MODULES``.
    """
    try:
        spec = importlib.util.find_spec(module)
    except ValueError:  # a module without a spec, made by hand
        return []
    if spec is None or spec.origin is None:
        return []
    file, owners = Path(spec.origin).resolve(), []
    for name in (name for stack in STACKS.values() for name in stack[module][0]):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found = importlib.metadata.distribution(name)
            editable = '"editable": true' in (found.read_text("direct_url.json") or "")
            if editable or Path(str(found.locate_file(f"{module}/__init__.py"))).resolve() == file:
                owners.append(name)
    return owners


def stack_of(distributions: Distributions) -> str:
    """Return the stack that most modules come from, upstream where nothing is known.

    Args:
        distributions: Names of distributions for each module.
    """
    counts = Counter(_owner(name) for names in distributions.values() for name in names)
    return FORK if counts[FORK] > counts[UPSTREAM] else UPSTREAM


def install_command(modules: Sequence[str], stack: str) -> str:
    """Return the command that installs modules of a stack.

    Args:
        modules: Some of ``MODULES``.
        stack: A key of ``STACKS``.
    """
    entries = (STACKS[stack][module] for module in modules)
    return "pip install " + " ".join(f'"{names[0]}{limits}"' for names, limits in entries)


def find_mixtures(distributions: Distributions) -> list[str]:
    """Return one line where forks and upstream packages lie in one environment, else nothing.

    Args:
        distributions: Names of distributions for each module.
    """
    given = [name for names in distributions.values() for name in names]
    keep = stack_of(distributions)
    wrong = [name for name in given if _owner(name) != keep]
    if not wrong:
        return []
    modules = [module for module, names in distributions.items() if any(name in wrong for name in names)]
    # What the other stack has overwritten is installed anew, too.
    gone = [name for module in modules for name in distributions[module]]
    others = [name for name in given if name not in wrong]
    return [
        f"packages of {UPSTREAM} and of its {FORK} forks are mixed, which have the same modules: "
        f"{_listed(wrong)} beside {_listed(others)}. "
        f"Fix: pip uninstall -y {' '.join(gone)} && {install_command(modules, keep)}"
    ]


def find_duplicates(distributions: Distributions) -> list[str]:
    """Return one line for each module that two distributions of one stack were installed over each other for.

    Args:
        distributions: Names of distributions for each module.
    """
    lines = []
    for module, names in distributions.items():
        if len(names) > 1 and len({_owner(name) for name in names}) == 1:
            hint = " (or mmcv, for compiled operators)" if module == "mmcv" else ""
            lines.append(
                f"{_listed(names)} are one module, {module}, and were installed over each other. "
                f"Fix: pip uninstall -y {' '.join(names)} && {install_command([module], _owner(names[0]))}{hint}"
            )
    return lines


def _owner(name: str) -> str:
    return FORK if name.startswith("onedl-") else UPSTREAM


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
