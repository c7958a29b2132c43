"""Checkpoints in a work dir: what is there, where to resume, what an overwritten run leaves."""

import re
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkdprune.compat.checkpoint import is_whole

_NUMBERED = re.compile(r"(epoch|iter)_(\d+)\.pth")
_POINTER = "last_checkpoint"


def find_checkpoints(work_dir: str | Path) -> list[Path]:
    """Checkpoints that a run left in its work dir (``epoch_*``, ``iter_*``, ``best_*``), oldest first."""
    folder = Path(work_dir)
    found = (path for pattern in ("epoch_*.pth", "iter_*.pth", "best_*.pth") for path in folder.glob(pattern))
    # Files of the same second (a copied folder, say) are ordered by their number.
    return sorted((path for path in found if path.is_file()), key=lambda path: (int(path.stat().st_mtime), _step(path)))


def find_resumable(work_dir: str | Path, newer_than: float | None = None) -> Path | None:
    """Whole checkpoint to resume from: the one that MMEngine noted as its last, else the newest numbered one.

    Unlike MMEngine's own search this survives a lost note. ``best_*`` do not count: they have no optimizer state.

    Args:
        work_dir: The run's folder.
        newer_than: Time in seconds since the epoch; older files do not count.
    """
    candidates = [path for path in find_checkpoints(work_dir) if _NUMBERED.fullmatch(path.name)]
    if newer_than is not None:
        candidates = [path for path in candidates if path.stat().st_mtime >= newer_than]
    noted = _noted_name(Path(work_dir) / _POINTER)
    candidates.sort(key=lambda path: path.name == noted)
    return next((path for path in reversed(candidates) if is_whole(path)), None)


def remove_checkpoints(work_dir: str | Path) -> None:
    """Remove a run's checkpoints and its note of the last one, so that no later resume finds the old run."""
    for path in [*find_checkpoints(work_dir), Path(work_dir) / _POINTER]:
        path.unlink(missing_ok=True)


class RemoveOldCheckpointsHook(Hook):
    """Removes an earlier run's checkpoints once the new run has made a step, and so is known to work."""

    priority = "VERY_HIGH"

    def __init__(self) -> None:
        self.done = False

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Remove them after the first iteration, before this run saves anything."""
        if not self.done and runner.rank == 0:
            remove_checkpoints(runner.work_dir)
        self.done = True


def _step(path: Path) -> int:
    match = _NUMBERED.fullmatch(path.name)
    return int(match[2]) if match else -1


def _noted_name(pointer: Path) -> str | None:
    try:
        return Path(pointer.read_text(encoding="utf-8").strip()).name or None
    except OSError:
        return None
