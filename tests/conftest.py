"""Settings of the whole test run."""

import os
import runpy
import sys
from collections import Counter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent

if "PYTEST_XDIST_WORKER" in os.environ:
    # One thread a worker: several workers with a thread a core each are slower than one after the other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with many slow tests come first, so that no worker is left alone with them in the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="module", autouse=True)
def _no_scope_of_others():
    """Which registry a type is looked up in must not depend on the files that were run before."""
    registry = sys.modules.get("mmengine.registry")
    if registry is not None:
        registry.DefaultScope._instance_dict.clear()


@pytest.fixture
def one_thread():
    """Small networks are slower with several."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def forget_runs() -> None:
    """Loggers of an earlier run would write to a stream that pytest has closed, or to that run's files."""
    from mmengine.logging import MessageHub, MMLogger
    from mmengine.registry import DefaultScope
    from mmengine.visualization import Visualizer

    for manager in (MMLogger, MessageHub, Visualizer, *Visualizer.__subclasses__(), DefaultScope):
        manager._instance_dict.clear()


@pytest.fixture
def call(monkeypatch, capsys):
    """Run a script in tools/, or a command of ``mmkdprune``, inside this process (saves the imports).

    Returns its exit code and what it printed.
    """
    from mmkdprune.cli.main import main

    def call_tool(name: str, *arguments: object) -> tuple[int, str]:
        forget_runs()
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        monkeypatch.syspath_prepend(REPOSITORY / "tools")
        code = 0
        try:
            if name.endswith(".py"):
                runpy.run_path(str(REPOSITORY / "tools" / name), run_name="__main__")
            else:
                main([name, *map(str, arguments)])
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return call_tool


@pytest.fixture
def commands_inside(monkeypatch):
    """What a tool called with ``call`` starts runs inside this process, too; returns the list of what was started."""
    from testing_helpers import run_own_command

    from mmkdprune.commands import train_pipeline
    from mmkdprune.commands.chain import stages

    started: list[list[str]] = []

    def run_inside(command: list[str], label: str, how_to_go_on: str) -> None:
        started.append(command)
        forget_runs()
        run_own_command(command, monkeypatch)

    for module in (train_pipeline, stages):  # each has the function by a name of its own
        monkeypatch.setattr(module, "run_command", run_inside)
    return started
