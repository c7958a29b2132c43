"""Ctrl-C and SIGTERM during training: stop between two checkpoints, never inside one."""

import functools
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

# A launcher passes on the signal that the terminal has sent to every process already. Within so many seconds that is
# the same Ctrl-C; later it is a second one, of a user who does not want to wait.
_ECHO = 2.0


class InterruptionGuard:
    """Context in which the first SIGINT or SIGTERM ends the work with a ``KeyboardInterrupt`` and is remembered.

    A signal that arrives inside a function made by :meth:`protect` waits until that function has returned.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._protected = 0
        self._time = 0.0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "InterruptionGuard":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def exit_code(self) -> int:
        """Exit code that a shell gives a process killed by the remembered signal: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signal if self.signal is not None else 0

    def protect(self, function: Callable) -> Callable:
        """Wrap a function so that it is not interrupted half-way."""

        @functools.wraps(function)
        def protected(*args: Any, **kwargs: Any) -> Any:
            self._protected += 1
            try:
                result = function(*args, **kwargs)
            finally:
                self._protected -= 1
            if self.signal is not None and not self._protected:
                raise KeyboardInterrupt
            return result

        return protected

    def protect_checkpoints(self, runner: Runner) -> None:
        """Let every save of the runner's ``CheckpointHook`` finish.

        Files stay whole without this (:mod:`mmkdprune.checkpoint.atomic`), but a save is several steps: write the new
        checkpoint, note its name, remove the outdated one. Stopped in the first, the epoch just trained is lost;
        between them, the note is empty or names the one before, or one checkpoint too many stays.
        """
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook):
                for name in ("_save_checkpoint", "_save_best_checkpoint"):
                    setattr(hook, name, self.protect(getattr(hook, name)))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._time = signal.Signals(number), now
        elif now - self._time < _ECHO:
            return
        if self._protected:
            print("finishing the checkpoint, then stopping", file=sys.stderr, flush=True)
        else:
            raise KeyboardInterrupt
