"""What is installed, what of it does not fit together, and the command that mends it.

    python -m mmkdprune.env [--quick]

Runs also where ``import mmkdprune`` refuses the environment. The exit status is 1 when something is wrong.
"""

import argparse
import ast
import contextlib
import importlib.metadata
import importlib.util
import json
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mmkdprune.compat import stacks, versions
from mmkdprune.version import __version__

# Beside the stack: what some features need. Modules, with the distribution where it is called otherwise.
OTHERS = {
    "numpy": "numpy",
    "sklearn": "scikit-learn",
    "setuptools": "setuptools",
    "ftfy": "ftfy",
    "transformers": "transformers",
    "torch_pruning": "torch-pruning",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "tensorboard": "tensorboard",
}
IMPORTED = ("torch", "torchvision", *stacks.MODULES)
# Runs in a process of its own: a library of another PyTorch can end the process. Each line is one finding.
_PROBE = """
import importlib, json, sys, warnings
warnings.simplefilter("ignore")
out, sys.stdout = sys.stdout, sys.stderr
def tell(**values):
    print(json.dumps(values), file=out, flush=True)
for name in sys.argv[1:]:
    tell(begin=name)
    try:
        importlib.import_module(name)
    except Exception as error:
        tell(failed=name, text=f"{type(error).__name__}: {error}")
if "torch" in sys.modules:
    torch = sys.modules["torch"]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    tell(cuda=torch.version.cuda or torch.version.hip, gpus=[torch.cuda.get_device_name(i) for i in range(count)])
tell(begin=None)
"""


@dataclass
class Report:
    """What :func:`inspect_environment` found.

    Attributes:
        lines: Name and value of each thing to print.
        problems: What keeps the package, or a package of the stack, from working.
        warnings: What is known to break some uses.
    """

    lines: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return the report for a terminal."""
        width = max(len(name) for name, _ in self.lines)
        rows = [f"{name:{width}}  {value}" for name, value in self.lines]
        for title, found in (("Wrong", self.problems), ("Warnings", self.warnings)):
            if found:
                rows += ["", f"{title}:", *(f"  - {line}" for line in found)]
        number = len(self.problems)
        end = f"{number} problem{'s' if number > 1 else ''}" if number else "Nothing is wrong."
        return "\n".join([*rows, "", end])


def inspect_environment(try_imports: bool = True) -> Report:
    """Collect versions and judge them.

    Args:
        try_imports: Whether to import each package, in a process of its own; that takes some seconds, and finds
            compiled parts of another PyTorch and missing system libraries.

    Returns:
        Report: What was found.
    """
    distributions = stacks.installed_distributions()
    found = {module: _version(module, *distributions.get(module, [module])) for module in IMPORTED}
    flavour = mmcv_flavour()
    report = Report()
    report.lines += [
        ("mmkdprune", f"{__version__} ({Path(__file__).parent.parent})"),
        ("Python", f"{platform.python_version()} ({sys.executable})"),
        ("system", platform.platform()),
        ("stack", _stack_line(distributions)),
    ]
    for module, version in found.items():
        report.lines.append((module, _version_line(module, version, distributions, flavour)))
    for module, distribution in OTHERS.items():
        report.lines.append((distribution, _version(module, distribution) or "-"))
    checked = versions.installed_versions()
    report.problems += stacks.find_mixtures(distributions)
    report.problems += versions.find_problems(checked, distributions)
    if not stacks.find_mixtures(distributions):  # which explains what the packages refuse of each other
        report.problems += find_limits(found, distributions)
    report.warnings += stacks.find_duplicates(distributions) + versions.find_traps(checked)
    if try_imports:
        _add_imports(report, [name for name in IMPORTED if found[name] is not None], flavour)
    return report


def mmcv_flavour() -> str | None:
    """Return ``'compiled'``, ``'fallback'`` (operators of torchvision in their place), ``'lite'`` (none), or None."""
    folder = _folder("mmcv")
    if folder is None:
        return None
    if any(folder.glob("_ext*.so")) or any(folder.glob("_ext*.pyd")):
        return "compiled"
    fallback = importlib.util.find_spec("mmkdprune.compat.mmcv_ops") is not None
    return "fallback" if fallback and importlib.util.find_spec("torchvision") is not None else "lite"


FLAVOURS = {
    "compiled": "compiled operators",
    "fallback": "no compiled operators; mmkdprune supplies those that models use",
    "lite": "no compiled operators: classification only",
}


def find_limits(found: Mapping[str, str | None], distributions: stacks.Distributions) -> list[str]:
    """Return one line for each package that will refuse the MMCV or MMEngine beside it.

    Args:
        found: Version of each module, None where it is absent.
        distributions: The distributions that each module comes from.
    """
    problems = []
    for module in ("mmpretrain", "mmdet", "mmseg"):
        for needed, (oldest, newest) in _stated_limits(module).items():
            version = found.get(needed)
            if version is None or versions.release(oldest) <= versions.release(version) < versions.release(newest):
                continue
            names = distributions.get(needed) or [needed]
            problems.append(
                f"{module} {found.get(module)} refuses {needed} {version}: it takes >= {oldest}, < {newest}. "
                f'Fix: pip install "{names[0]}>={oldest},<{newest}"'
            )
    return problems


def _stated_limits(module: str) -> dict[str, tuple[str, str]]:
    """Read the versions that a package of the stack asserts in its ``__init__.py``, without importing it."""
    folder = _folder(module)
    if folder is None:
        return {}
    assigned = {}
    for node in ast.parse((folder / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            assigned.update(
                {target.id.lower(): node.value.value for target in node.targets if isinstance(target, ast.Name)}
            )
    limits = {}
    for needed in ("mmcv", "mmengine"):
        ends = [
            next(
                (value for name, value in assigned.items() if re.fullmatch(f"{needed}_{end}(imum_version)?", name)),
                None,
            )
            for end in ("min", "max")
        ]
        if ends[0] is not None and ends[1] is not None:
            limits[needed] = (ends[0], ends[1])
    return limits


def _add_imports(report: Report, modules: list[str], flavour: str | None) -> None:
    """Import in another process and add what fails; also what PyTorch says of GPUs."""
    names = [*modules, *(["mmcv._ext"] if flavour == "compiled" else [])]
    result = subprocess.run([sys.executable, "-c", _PROBE, *names], capture_output=True, text=True)
    begun: str | None = "the probe"
    for line in filter(None, result.stdout.splitlines()):
        finding = json.loads(line)
        if "begin" in finding:
            begun = finding["begin"]
        elif "failed" in finding:
            _add_failure(report, finding["failed"], finding["text"])
        else:
            gpus = ", ".join(finding["gpus"]) or "none is visible"
            report.lines.append(("GPUs", f"{gpus} (torch was built for {finding['cuda'] or 'CPUs only'})"))
    if begun is not None:
        last = (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]
        report.problems.append(f"importing {begun} ended the process: {last}")


def _add_failure(report: Report, module: str, text: str) -> None:
    if any(line.startswith(f"{module} ") for line in report.problems):  # said already, with its reason
        return
    fix = ""
    if module == "mmcv._ext":
        fix = (
            " The operators were compiled for another PyTorch. Fix: install the mmcv that was built for this one, or "
            f"pip uninstall -y mmcv && {stacks.install_command(['mmcv'], stacks.UPSTREAM)}"
        )
    elif "libGL" in text or "libgthread" in text:
        fix = " Fix: pip uninstall -y opencv-python && pip install --force-reinstall opencv-python-headless"
    report.problems.append(f"{module} cannot be imported. Its own error: {text}.{fix}")


def _stack_line(distributions: stacks.Distributions) -> str:
    names = [name for found in distributions.values() for name in found]
    if not names:
        return "none is installed"
    if stacks.find_mixtures(distributions):
        return f"{stacks.UPSTREAM} and its {stacks.FORK} forks, mixed"
    fork = stacks.stack_of(distributions) == stacks.FORK
    return f"{stacks.FORK}, the maintained forks of {stacks.UPSTREAM}" if fork else f"upstream {stacks.UPSTREAM}"


def _version_line(module: str, version: str | None, distributions: stacks.Distributions, flavour: str | None) -> str:
    if version is None:
        return "-"
    names = distributions.get(module, [module])
    notes = [] if names == [module] else [" and ".join(names) or f"a checkout: {_folder(module)}"]
    if module == "mmcv" and flavour is not None:
        notes.append(FLAVOURS[flavour])
    return version + (f" ({'; '.join(notes)})" if notes else "")


def _version(module: str, *distributions: str) -> str | None:
    """Return a module's version as its distribution or its ``version.py`` states it, None where it is absent."""
    folder = _folder(module)
    if folder is None:
        return None
    for name in distributions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    text = (folder / "version.py").read_text(encoding="utf-8") if (folder / "version.py").is_file() else ""
    stated = re.search(r"^__version__\s*=\s*['\"]([^'\"]+)", text, re.MULTILINE)
    return stated[1] if stated else "of unknown version"


def _folder(module: str) -> Path | None:
    spec = importlib.util.find_spec(module)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def print_report(try_imports: bool = True) -> int:
    """Print what is installed and what is wrong with it.

    Args:
        try_imports: Import the packages, too, in a process of its own.

    Returns:
        int: Exit status: 1 when something is wrong.
    """
    report = inspect_environment(try_imports)
    print(report.text())
    return 1 if report.problems else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m mmkdprune.env", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="do not try to import the packages")
    sys.exit(print_report(try_imports=not parser.parse_args().quick))
