"""Folders of rows in training: who works in one, and what its run has cost so far."""

import contextlib
import fcntl
import json
import os
import signal
import time
from pathlib import Path
from typing import IO, Any

from rows import Row

from mmkdprune.checkpoint.atomic import atomic_write
from mmkdprune.commands.pipeline import Phase, plan_phases
from mmkdprune.errors import UsageError

SPENT = "spent.json"


class FolderInUseError(UsageError):
    """Another process trains in the folder."""


def lock_of(work_dir: Path) -> IO:
    """Lock a folder of runs for this process and the run it starts.

    A run whose queue was killed keeps its folder locked until it has come to its end. If that queue had let it stand
    still, it goes on now.

    Raises:
        FolderInUseError: Another process works there.
    """
    stream = (work_dir / ".lock").open("w")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        stream.close()
        wake_up(work_dir)
        raise FolderInUseError(f"another process trains in {work_dir}") from None
    return stream


def wake_up(work_dir: Path) -> None:
    """Let a run that stands still go on."""
    pid = _read_spent(work_dir).get("pid")
    if isinstance(pid, int):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGCONT)


def phase_of(row: Row, work_dir: Path, options: list[str]) -> Phase:
    """The run of a row; networks that it learns or starts from are rows of their own."""
    if row.backbone is not None:
        return Phase(str(row.config), row.settings(), work_dir / row.name, options)
    return plan_phases(str(row.config), options, work_dir)[-1]


def saved_length(phase: Phase) -> int:
    """Epochs (iterations, in a run that counts those) of a run that are saved."""
    return max((int(path.stem.split("_")[1]) for path in phase.work_dir.glob(f"{phase.length[0]}_*.pth")), default=0)


def mark_as_running(work_dir: Path, pid: int) -> None:
    """Note that a run has been started, and count what an earlier one has cost whose queue was killed."""
    spent = _read_spent(work_dir)
    if "since" in spent:
        last_sign = (work_dir / "output.log").stat().st_mtime
        spent["wall_s"] = round(spent["wall_s"] + max(0.0, min(last_sign, time.time()) - spent["since"]), 1)
    _write_spent(work_dir, {**spent, "pid": pid, "since": time.time()})


def add_up(work_dir: Path, seconds: float, memory: int) -> dict[str, float]:
    """Add the cost of a run that has ended to what it cost before it was interrupted.

    Returns:
        dict[str, float]: ``wall_s`` and ``memory_mib``.
    """
    before = _read_spent(work_dir)
    spent = {"wall_s": round(before["wall_s"] + seconds, 1), "memory_mib": max(before["memory_mib"], memory)}
    _write_spent(work_dir, spent)
    return spent


def _read_spent(work_dir: Path) -> dict[str, Any]:
    try:
        found = json.loads((work_dir / SPENT).read_text())
    except (FileNotFoundError, ValueError):
        found = {}
    return {"wall_s": 0.0, "memory_mib": 0, **found}


def _write_spent(work_dir: Path, spent: dict[str, Any]) -> None:
    with atomic_write(work_dir / SPENT, "w") as stream:
        json.dump(spent, stream)
