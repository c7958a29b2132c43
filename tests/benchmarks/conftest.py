"""Settings of the tests of the benchmarks."""

import importlib
import sys
import tempfile
from pathlib import Path

import pytest
import quiet
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer
from testing_helpers import REPOSITORY


@pytest.fixture(autouse=True)
def _quiet_for_itself(monkeypatch, tmp_path_factory):
    """A benchmark that measures stops the queues of its own test only, not those of tests that run beside it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("tmp")))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(quiet, "SETTLE_S", 0)


@pytest.fixture
def run_here(monkeypatch, capsys):
    """Like ``testing_helpers.run_script``, for a script of ``benchmarks`` within this process: that saves imports."""

    def run_script(script: str, *words: object, status: int = 0) -> str:
        # Loggers of an earlier run would write to a stream that pytest has closed.
        for manager in (MMLogger, MessageHub, Visualizer, DefaultScope):
            manager._instance_dict.clear()
        monkeypatch.chdir(REPOSITORY)
        monkeypatch.setattr(sys, "argv", [script, *map(str, words)])
        capsys.readouterr()
        code: object = 0
        try:
            importlib.import_module(Path(script).stem).main()
        except SystemExit as end:
            code = end.code or 0
            if isinstance(code, str):  # as Python itself does when it ends
                print(code, file=sys.stderr)
                code = 1
        finally:
            quiet._until_exit.close()  # or queues would stand still until this process ends
        printed = capsys.readouterr()
        assert code == status, printed.out + printed.err
        return printed.out + printed.err

    return run_script
