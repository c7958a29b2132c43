import contextlib
import os
import pty
import sys
import threading

import pytest
from toy_run import make_runner

from mmkdprune.engine.hooks import ProgressBarHook
from mmkdprune.engine.hooks import progress_bar_hook as module


class Terminal:
    """Standard output and error are a terminal inside this context; afterwards ``drawn`` is what was put on it."""

    def __init__(self, monkeypatch) -> None:
        self.monkeypatch = monkeypatch
        self.drawn = ""

    def __enter__(self):
        self.master, slave = pty.openpty()
        self.stream = os.fdopen(slave, "w", buffering=1)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        self.monkeypatch.setenv("TERM", "xterm")
        self.monkeypatch.setenv("COLUMNS", "120")
        self.monkeypatch.setattr(module, "REFRESH_SECONDS", 0.0)
        self.before = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = self.stream
        return self

    def read(self) -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while piece := os.read(self.master, 65536):
                self.drawn += piece.decode(errors="replace")

    def __exit__(self, *error) -> None:
        sys.stdout, sys.stderr = self.before
        self.stream.close()
        self.reader.join(timeout=10)
        os.close(self.master)


@pytest.fixture
def terminal(monkeypatch):
    return Terminal(monkeypatch)


@pytest.mark.parametrize("by_epoch", [True, False], ids=["epochs", "iterations"])
def test_a_terminal_gets_a_bar_beside_the_log(tmp_path, terminal, by_epoch):
    with terminal:
        runner = make_runner(
            tmp_path,
            by_epoch=by_epoch,
            length=2 if by_epoch else 8,
            custom_hooks=[{"type": "mmkdprune.ProgressBarHook"}],
            log_level="INFO",
        )
        runner.train()
        assert sys.stdout is sys.stderr is terminal.stream
        assert any(getattr(handler, "stream", None) is terminal.stream for handler in runner.logger.handlers)
    for part in ("4/8", "8/8", "validate", "left", "(train)", "Saving checkpoint"):
        assert part in terminal.drawn
    assert ("epoch 2/2" in terminal.drawn) == by_epoch
    # The cursor is hidden, and comes back.
    assert terminal.drawn.count("\x1b[?25l") == terminal.drawn.count("\x1b[?25h") == 1


def test_a_run_that_breaks_gives_the_terminal_back(tmp_path, terminal):
    hooks = [{"type": "mmkdprune.ProgressBarHook"}, {"type": "Interruption", "after": 3}]
    with terminal:
        runner = make_runner(tmp_path, length=2, custom_hooks=hooks)
        with pytest.raises(KeyboardInterrupt):
            runner.train()
        (hook,) = (hook for hook in runner.hooks if isinstance(hook, ProgressBarHook))
        hook.close()  # what happens at exit
        hook.close()
        assert sys.stdout is terminal.stream
    assert "3/8" in terminal.drawn
    assert terminal.drawn.rstrip().endswith("\x1b[?25h")


@pytest.mark.parametrize("problem", ["stdout", "stderr", "rank", "dumb"])
def test_nothing_is_drawn_without_a_terminal_or_in_other_processes(tmp_path, terminal, monkeypatch, problem):
    with terminal:
        runner = make_runner(tmp_path / "run", length=1, custom_hooks=[{"type": "mmkdprune.ProgressBarHook"}])
        if problem == "dumb":
            monkeypatch.setenv("TERM", "dumb")
        elif problem == "rank":
            runner._rank = 1
        else:
            setattr(sys, problem, (tmp_path / "file").open("w"))
        runner.train()
    assert "\x1b" not in terminal.drawn


def test_a_pipe_is_no_terminal(capfd):
    assert not module.is_interactive()
