"""Which way imports run: the contracts of ``pyproject.toml``, and the ways around them that these do not see."""

import ast
import subprocess
import sys
from pathlib import Path

import grimp
import pytest
from testing_helpers import REPOSITORY

PACKAGE = REPOSITORY / "mmkdprune"
# Modules that import others by a name that they are given: of OpenMMLab, of its registries, of a user's packages.
BY_NAME = {"cli/arguments.py", "compat/deferred_detection.py", "compat/versions.py", "deploy/stored_config.py"}


def test_contracts_are_kept():
    """Imports inside functions count."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", code, "--no-cache", "--no-logo"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Contracts: 3 kept" in result.stdout


def test_no_module_imports_itself_on_a_way_round():
    """No module is in a circle, and none imports the package as a whole, which stands above all rooms."""
    graph = grimp.build_graph("mmkdprune", cache_dir=None)
    assert not graph.find_modules_that_directly_import("mmkdprune")
    circles = [
        module
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
        if graph.find_shortest_chain(imported, module) is not None
    ]
    assert not circles


def dynamic_imports(file: Path) -> list[tuple[int, str | None]]:
    """Line and name of every import by name; None where the name is not written out."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("import_module", "__import__"):
                name = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
                found.append((node.lineno, name))
    return found


def test_own_modules_are_not_imported_by_name():
    for file in sorted(PACKAGE.rglob("*.py")):
        place = str(file.relative_to(PACKAGE))
        for line, name in dynamic_imports(file):
            assert place in BY_NAME if name is None else not name.startswith(("mmkdprune", ".")), (place, line)


def test_models_are_found_in_their_room():
    code = (
        "import sys, mmkdprune; assert 'mmpretrain' not in sys.modules\n"
        "from mmkdprune.models import MixSKD, ProjectionHead, CifarResNet, losses\n"
        "from mmkdprune.models.algorithms import MixSKD as same; assert MixSKD is same"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


@pytest.mark.parametrize("name", ["FilterPruningHook", "RandomStateHook"])
def test_registries_find_what_an_import_did_not_load(name):
    """``import mmkdprune`` does not load the hooks; looking one up does."""
    code = "import sys, mmkdprune; assert 'mmkdprune.engine.hooks' not in sys.modules\n"
    code += f"from mmengine.registry import HOOKS; assert HOOKS.get('mmkdprune.{name}').__name__ == '{name}'\n"
    code += "from mmkdprune.registry import TASK_UTILS; assert TASK_UTILS.get('FilterPruner') is not None"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)
