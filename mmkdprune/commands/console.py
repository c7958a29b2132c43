"""What a terminal sees of a run before its first iteration: warnings and a summary; the log file has everything."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

# Of MMEngine's checkpoint hook, about its own file client: nothing that a user could do anything about.
_POINTLESS = ('"FileClient" will be deprecated in future.', '"HardDiskBackend" is the alias of "LocalBackend"')
# How weights fit is what a user has to see, and is said while they are loaded.
_SHOWN = (" keys matched", "resumed epoch", "Resumed ")


class ConsoleFilter(logging.Filter):
    """Let warnings through, and information about loaded weights, until :meth:`open`; then everything."""

    def __init__(self) -> None:
        super().__init__()
        self.is_open = False

    def open(self) -> None:
        """Let everything through from here on."""
        self.is_open = True

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is shown."""
        if self.is_open or record.levelno >= logging.WARNING:
            return True
        return any(mark in record.getMessage() for mark in _SHOWN)


class OpenConsoleHook(Hook):
    """Open the terminal for the log when a test begins.

    Not registered: ``mmkdprune test`` adds it, a config has no use for it.

    Args:
        console (ConsoleFilter): To open.
    """

    def __init__(self, console: ConsoleFilter) -> None:
        self.console = console

    def before_test(self, runner: Runner) -> None:
        """Open it."""
        self.console.open()


def _is_of_use(record: logging.LogRecord) -> bool:
    return not (record.levelno == logging.WARNING and str(record.msg).startswith(_POINTLESS))


@contextmanager
def short_start(verbose: bool) -> Iterator[ConsoleFilter]:
    """Let the runners that are built inside keep their terminal quiet until the filter is opened.

    Args:
        verbose (bool): Show everything.

    Yields:
        ConsoleFilter: Of all their terminals.
    """
    console = ConsoleFilter()
    if verbose:
        console.open()
    original = Runner.build_logger

    def build_logger(self: Runner, *args: Any, **kwargs: Any) -> logging.Logger:
        logger = original(self, *args, **kwargs)
        logger.addFilter(_is_of_use)
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.addFilter(console)
        return logger

    Runner.build_logger = build_logger  # a runner logs before anybody else can reach its logger
    try:
        yield console
    finally:
        Runner.build_logger = original
        console.open()
