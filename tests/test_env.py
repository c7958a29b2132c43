import os
import subprocess
import sys
from pathlib import Path

import pytest
from testing_helpers import REPOSITORY

from mmkdprune import env
from mmkdprune.compat.stacks import FORK, STACKS, UPSTREAM

COMMAND = ("-m", "mmkdprune.env")
VERSIONS = {
    UPSTREAM: {"mmengine": "0.10.7", "mmcv": "2.1.0", "mmpretrain": "1.2.0", "mmdet": "3.3.0", "mmseg": "1.2.2"},
    FORK: {"mmengine": "0.10.12", "mmcv": "2.3.6", "mmpretrain": "1.3.6", "mmdet": "3.5.1", "mmseg": "1.4.2"},
}
# As MMDetection 3.3 and MMSegmentation 1.2 state them.
LIMITS = {
    "mmdet": "mmcv_minimum_version = '2.0.0rc4'\nmmcv_maximum_version = '2.2.0'\nraise RuntimeError('imported')\n",
    "mmseg": "MMCV_MIN = '2.0.0rc4'\nMMCV_MAX = '2.2.0'\n",
}


class Site:
    """A folder of made-up packages, for a Python that sees nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, module: str, distribution: str, version: str, init: str = "") -> None:
        package = self.folder / module
        package.mkdir(exist_ok=True)
        (package / "__init__.py").write_text(init or f"__version__ = '{version}'\n")
        (package / "version.py").write_text(f"__version__ = '{version}'\n")
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")

    def add_stack(self, stack: str, **changes: str) -> None:
        self.add("torch", "torch", "2.11.0")
        self.add("pkg_resources", "setuptools", "81.0.0")
        self.add("wrapt", "wrapt", "1.16.0")
        for module, version in (VERSIONS[stack] | changes).items():
            self.add(module, STACKS[stack][module][0][0], version)

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run Python without its site-packages."""
        environment = {**os.environ, "PYTHONPATH": f"{self.folder}{os.pathsep}{REPOSITORY}"}
        command = [sys.executable, "-S", *arguments]
        return subprocess.run(command, env=environment, cwd=self.folder, capture_output=True, text=True)


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


@pytest.mark.parametrize("stack", [UPSTREAM, FORK])
def test_both_stacks_are_reported(site, stack):
    site.add_stack(stack)
    result = site.run(*COMMAND, "--quick")
    assert result.returncode == 0, result.stdout + result.stderr
    rows = dict(line.split(maxsplit=1) for line in result.stdout.splitlines() if "  " in line)
    for module, version in VERSIONS[stack].items():
        assert rows[module].startswith(version)
    assert STACKS[stack]["mmseg"][0][0] in rows["mmseg"]
    assert ("fork" in rows["stack"]) == (stack == FORK)
    assert result.stdout.endswith("Nothing is wrong.\n")


def test_a_mixture_is_refused_and_reported(site):
    site.add_stack(FORK)
    site.add("mmdet", "mmdet", "3.3.0")
    result = site.run(*COMMAND, "--quick")
    assert result.returncode == 1
    assert "mmdet beside" in result.stdout
    assert "pip uninstall -y mmdet onedl-mmdetection && pip install" in result.stdout
    refused = site.run("-c", "import mmkdprune")
    assert "are mixed, which have the same modules: mmdet beside" in refused.stderr


def test_it_runs_where_the_import_is_refused(site):
    assert "torch is not installed" in site.run("-c", "import mmkdprune").stderr
    result = site.run(*COMMAND)
    assert result.returncode == 1, result.stderr
    for part in ("none is installed", "torch is not installed (needed: >= 2.1). Fix: pip install", "5 problems"):
        assert part in result.stdout


def test_what_a_package_will_refuse_is_known_without_importing_it(site):
    site.add_stack(UPSTREAM, mmcv="2.2.0")
    for module, init in LIMITS.items():
        (site.folder / module / "__init__.py").write_text(init)
    result = site.run(*COMMAND, "--quick")
    assert result.returncode == 1
    for module in LIMITS:
        assert (
            f"{module} {VERSIONS[UPSTREAM][module]} refuses mmcv 2.2.0: it takes >= 2.0.0rc4, < 2.2.0" in result.stdout
        )
    assert 'Fix: pip install "mmcv-lite>=2.0.0rc4,<2.2.0"' in result.stdout


def test_imports_that_fail_or_end_the_process_are_reported(site):
    site.add_stack(UPSTREAM)
    (site.folder / "mmengine" / "__init__.py").write_text("raise KeyError('Adafactor is already registered')")
    (site.folder / "mmcv" / "_ext.cpython-311-x86_64-linux-gnu.so").write_text("of another PyTorch")
    result = site.run(*COMMAND)
    assert "mmengine cannot be imported. Its own error: KeyError: 'Adafactor is already registered'" in result.stdout
    assert "compiled operators" in result.stdout
    (site.folder / "mmdet" / "__init__.py").write_text("import os; os._exit(3)")
    result = site.run(*COMMAND)
    assert result.returncode == 1
    assert "importing mmdet ended the process: exit status 3" in result.stdout


@pytest.mark.parametrize(
    ("files", "fallback", "flavour"),
    [
        (["_ext.cpython-311-x86_64-linux-gnu.so"], True, "compiled"),
        ([], True, "fallback"),
        ([], False, "lite"),
    ],
)
def test_flavours_of_mmcv(tmp_path, monkeypatch, files, fallback, flavour):
    for name in files:
        (tmp_path / name).touch()
    monkeypatch.setattr(env, "_folder", lambda module: tmp_path)
    monkeypatch.setattr(env.importlib.util, "find_spec", lambda name: "found" if fallback else None)
    assert env.mmcv_flavour() == flavour


def test_this_environment():
    report = env.inspect_environment(try_imports=False)
    assert report.problems == []
    assert dict(report.lines)["torch"] != "-"
