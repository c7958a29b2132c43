"""One row in training: its command, its process, and its place in the machine."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rows import BACKBONE, Row, relative_config

from mmkdprune.commands.pipeline import Phase
from mmkdprune.commands.run_log import read_validations

LOWEST_PRIORITY = 19


@dataclass
class Run:
    """A row in training."""

    row: Row
    work_dir: Path
    phase: Phase
    command: list[str]
    process: subprocess.Popen
    started: float
    saved_before: int
    lock: IO
    paused_s: float = 0.0

    @property
    def log(self) -> Path:
        """File that takes the output of the run."""
        return self.work_dir / "output.log"

    def interrupt(self) -> None:
        """Ask the run's own process to end; it passes that on.

        Popen.send_signal would first collect the exit status of a process that has just ended, which is then lost.
        """
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGINT)

    def signal(self, number: int) -> None:
        """Send a signal to the run's process and all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def cfg_options(row: Row, checkpoints: Mapping[str, Path]) -> list[str]:
    """Overrides on the command line; ten iterations are also what a logged value is the mean of."""
    own = [f"randomness.seed={row.seed}", "default_hooks.logger.interval=10", *row.overrides()]
    return [*own, *(f"{key}={file}" for key, file in checkpoints.items() if key != BACKBONE)]


def command_of(row: Row, work_dir: Path, checkpoints: Mapping[str, Path]) -> list[str]:
    """The command that trains a row, or goes on with it."""
    config = relative_config(row.config)
    if row.backbone is None:
        command = ["tools/train_pipeline.py", config, "--work-dir", str(work_dir)]
    else:
        command = ["benchmarks/fine_tune.py", config, "--work-dir", str(work_dir), "--name", row.name]
        if BACKBONE in checkpoints:
            file = checkpoints[BACKBONE]
            command += ["--backbone", str(file)]
            if row.backbone.compact:  # the run's own config, with everything that it was trained with
                command += ["--compact", str(file.parent / f"{file.parent.name}.py")]
    return [*command, "--cfg-options", *cfg_options(row, checkpoints)]


def set_unvalidated_aside(phase: Phase) -> None:
    """Rename a last checkpoint whose validation was interrupted, so that its end is trained and validated again."""
    file = phase.final_checkpoint
    if file.is_file() and phase.length[1] not in read_validations(phase.work_dir):
        file.rename(file.with_suffix(".unvalidated"))


def lower_priority(pid: int, nice: int = LOWEST_PRIORITY) -> None:
    """Let a process that leads a session of its own, and what it starts, give way to others.

    Where the kernel shares the processors out among sessions, the session's priority counts, and that of a process only
    within it.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, nice)
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(nice))


def tail(file: Path, lines: int = 15) -> str:
    """The end of a text file."""
    return "\n".join(file.read_text(errors="replace").splitlines()[-lines:])
