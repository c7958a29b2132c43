"""Checkpoints in a work dir: what is there, where to resume, what an overwritten run leaves."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkdprune.checkpoint.search import newest_whole_checkpoint, sort_by_progress

SETTINGS_HASH = "settings_hash"  # its place in checkpoint["mmkdprune"]
_POINTER = "last_checkpoint"


def find_checkpoints(work_dir: str | Path) -> list[Path]:
    """Checkpoints that a run left in its work dir (``epoch_*``, ``iter_*``, ``best_*``), the most advanced last."""
    folder = Path(work_dir)
    found = (path for pattern in ("epoch_*.pth", "iter_*.pth", "best_*.pth") for path in folder.glob(pattern))
    return sort_by_progress(path for path in found if path.is_file())


def find_resumable(
    work_dir: str | Path, newer_than: float | None = None, tell: Callable[[str], None] | None = None
) -> Path | None:
    """Whole checkpoint to resume from: the one that MMEngine noted as its last, else the most advanced one.

    Unlike MMEngine's own search this survives a lost note. ``best_*`` do not count: they have no optimizer state.

    Args:
        work_dir: The run's folder.
        newer_than: Time in seconds since the epoch; older files do not count.
        tell: Gets a sentence about each newer file that is passed over because it is damaged.
    """
    noted = _noted_name(Path(work_dir) / _POINTER)
    found = newest_whole_checkpoint(work_dir, noted=noted, newer_than=newer_than, tell=tell)
    return Path(found) if found is not None else None


def remove_checkpoints(work_dir: str | Path) -> None:
    """Remove a run's checkpoints and its note of the last one, so that no later resume finds the old run."""
    for path in [*find_checkpoints(work_dir), Path(work_dir) / _POINTER]:
        path.unlink(missing_ok=True)


def set_logs_aside(work_dir: str | Path, keep: str) -> None:
    """Rename the log folders of an overwritten run, so that nobody takes them for a part of the new one.

    Args:
        work_dir: The run's folder.
        keep: Name of the new run's own log folder.
    """
    for folder in Path(work_dir).glob("[0-9]*_[0-9]*"):
        if folder.is_dir() and folder.name != keep:
            folder.rename(folder.with_name(f"overwritten_{folder.name}"))


class RemoveOldCheckpointsHook(Hook):
    """Removes an earlier run's checkpoints once the new run has made a step, and so is known to work.

    Its logs stay, under other names.
    """

    priority = "VERY_HIGH"

    def __init__(self) -> None:
        self.done = False

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Remove them after the first iteration, before this run saves anything."""
        if not self.done and runner.rank == 0:
            remove_checkpoints(runner.work_dir)
            set_logs_aside(runner.work_dir, runner.timestamp)
        self.done = True


class SettingsHashHook(Hook):
    """Saves in each checkpoint what the run was asked for, so that the same run is recognised.

    Args:
        settings_hash: As :func:`mmkdprune.config.comparison.settings_hash` makes it.
    """

    def __init__(self, settings_hash: str) -> None:
        self.settings_hash = settings_hash

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the hash beside what else the package saves."""
        checkpoint.setdefault("mmkdprune", {})[SETTINGS_HASH] = self.settings_hash


def _noted_name(pointer: Path) -> str | None:
    try:
        noted = os.fsdecode(pointer.read_bytes()).strip()
        return None if "\0" in noted else Path(noted).name or None
    except OSError:
        return None
