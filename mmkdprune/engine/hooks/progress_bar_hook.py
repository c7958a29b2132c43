"""A progress bar with the time that is left, beside MMEngine's log lines."""

import atexit
import logging
import os
import sys
import time
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mmkdprune.registry import HOOKS

# No thread refreshes the bar: worker processes are forked from this one, and a thread could hold a lock then.
REFRESH_SECONDS = 0.1
SPEED_SECONDS = 600.0  # the time left follows the speed of the last so many seconds


def is_interactive() -> bool:
    """Return whether somebody looks at what this process prints, on a terminal that can redraw a line."""
    return sys.stdout.isatty() and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"


@HOOKS.register_module()
class ProgressBarHook(Hook):
    """Show how far a run is while it trains and validates.

    ``mmkdprune train`` adds it by itself; for other tools it goes into the config's ``custom_hooks``. Nothing is drawn
    where standard output or standard error are no terminal (a file, a pipe, a job), nor in any process but the first.
    The log lines, and what is printed, appear above the bar as they are.
    """

    # After the hooks that log and save: their time belongs to the iteration that is then counted.
    priority = "LOWEST"

    def __init__(self) -> None:
        self.progress: Progress | None = None
        self._tasks: dict[str, Any] = {}
        self._streams: list[tuple[logging.StreamHandler, Any]] = []
        self._drawn = 0.0

    def before_train(self, runner: Runner) -> None:
        """Start the bar where there is somebody to see it."""
        if runner.rank == 0 and is_interactive():
            self._start(runner)
            self._tasks["train"] = self._add("train", runner.max_iters, runner.iter)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Count an iteration."""
        if self.progress is not None:
            name = f"epoch {runner.epoch + 1}/{runner.max_epochs}" if runner.max_epochs > 1 else "train"
            self._advance("train", name)

    def before_val(self, runner: Runner) -> None:
        """Show a second bar while the run validates."""
        if self.progress is not None:
            self._tasks["val"] = self._add("validate", len(runner.val_dataloader), 0)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Count a validation batch."""
        if self.progress is not None and "val" in self._tasks:
            self._advance("val", "validate")

    def after_val(self, runner: Runner) -> None:
        """Remove the second bar."""
        if self.progress is not None and "val" in self._tasks:
            self.progress.remove_task(self._tasks.pop("val"))
            self.progress.refresh()

    def after_train(self, runner: Runner) -> None:
        """Leave the full bar where it is."""
        self.close()

    def close(self) -> None:
        """Give the terminal back; harmless when called again."""
        if self.progress is None:
            return
        progress, self.progress = self.progress, None
        for handler, stream in self._streams:
            handler.setStream(stream)
        self._streams = []
        progress.stop()
        atexit.unregister(self.close)

    def _start(self, runner: Runner) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
            auto_refresh=False,
            speed_estimate_period=SPEED_SECONDS,
        )
        own_streams = (sys.stdout, sys.stderr)
        self.progress.start()
        atexit.register(self.close)  # an error must not leave the cursor hidden
        # Handlers keep the stream that they were made with; the bar has put a substitute in its place, which writes
        # above the bar.
        for handler in runner.logger.handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream in own_streams:
                self._streams.append((handler, handler.stream))
                handler.setStream(sys.stderr)

    def _add(self, name: str, total: int, completed: int) -> Any:
        assert self.progress is not None
        return self.progress.add_task(name, total=total, completed=completed)

    def _advance(self, task: str, description: str) -> None:
        assert self.progress is not None
        self.progress.update(self._tasks[task], advance=1, description=description)
        now = time.monotonic()
        if now - self._drawn >= REFRESH_SECONDS:
            self._drawn = now
            self.progress.refresh()
