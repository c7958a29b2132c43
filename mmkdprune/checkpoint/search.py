"""Checkpoint files in a folder, judged without loading them: which are whole, and which is the most advanced one."""

import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

from .file_check import find_damage, is_checked

# How a file of torch.save(_use_new_zipfile_serialization=False), and of PyTorch before 1.6, begins.
_LEGACY_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
_PROGRESS = re.compile(r"(epoch|iter)_(\d+)\.pth$")


def is_whole(path: str | os.PathLike) -> bool:
    """Tells whether a file looks like a complete PyTorch checkpoint, without loading it.

    A zip archive ends with its list of contents, so a truncated one is recognised; a file in the format before
    PyTorch 1.6 is recognised by its beginning only.

    Args:
        path (str | os.PathLike): The file.

    Returns:
        bool: False for a file that is missing, empty, truncated or something else.
    """
    try:
        with open(path, "rb") as stream:
            return stream.read(len(_LEGACY_MAGIC)) == _LEGACY_MAGIC or zipfile.is_zipfile(stream)
    except (OSError, zipfile.BadZipFile):  # the latter of an archive on several disks
        return False


def is_undamaged(path: str | os.PathLike) -> bool:
    """Tells whether a file is whole and agrees with its checksums, as far as it has any.

    Args:
        path (str | os.PathLike): The file.

    Returns:
        bool: As :func:`is_whole` alone when files are not checked.
    """
    return is_whole(path) and (not is_checked() or find_damage(path) is None)


def sort_by_progress(files: Iterable[Path]) -> list[Path]:
    """Sorts the checkpoints of one run, the most advanced one last.

    The number in the name counts first: times are lost when a folder is copied, and file systems may keep whole
    seconds only. The time decides between files of one number (the last and the best checkpoint of an epoch). Epochs
    and iterations cannot be compared; the kind that was written last comes last.

    Args:
        files (Iterable[Path]): Existing files, ``[…]epoch_N.pth`` or ``[…]iter_N.pth``; others come first.

    Returns:
        list[Path]: The sorted files.
    """
    rows = []
    for file in files:
        match = _PROGRESS.search(file.name)
        kind, number = (match[1], int(match[2])) if match else ("", -1)
        rows.append((kind, number, file.stat().st_mtime, file))
    written: dict[str, float] = {}
    for kind, _, time, _ in rows:
        written[kind] = max(time, written.get(kind, time)) if kind else -1.0
    rows.sort(key=lambda row: (written[row[0]], *row))
    return [file for *_, file in rows]


def newest_whole_checkpoint(
    folder: str | os.PathLike,
    noted: str | os.PathLike | None = None,
    other_than: str | os.PathLike | None = None,
    newer_than: float | None = None,
    tell: Callable[[str], None] | None = None,
) -> str | None:
    """The complete checkpoint of a folder from which a run goes on.

    Files are compared with their checksums until one is whole.

    Args:
        folder (str | os.PathLike): Where to look.
        noted (str | os.PathLike, optional): What the run noted as its last one. A file of this name wins, even over
            higher numbers (of an earlier run, say). The folder in it does not count: the work dir as a whole may have
            got another place. Defaults to None.
        other_than (str | os.PathLike, optional): A file that does not count. Defaults to None.
        newer_than (float, optional): Time in seconds since the epoch; older files do not count. Defaults to None.
        tell (Callable, optional): Gets a sentence about each file that is passed over because it is damaged. Defaults
            to None.

    Returns:
        str | None: Path of the noted one, else of the most advanced ``epoch_*.pth`` or ``iter_*.pth``. ``best_*`` do
        not count: they have no optimizer state.
    """
    files = [file for pattern in ("epoch_*.pth", "iter_*.pth") for file in Path(folder).glob(pattern)]
    candidates = sort_by_progress(files)[::-1]
    if noted is not None and Path(noted).name:
        first = Path(folder) / Path(noted).name
        candidates = [first, *(file for file in candidates if file != first)]
    passed: list[Path] = []
    found = None
    for file in candidates:
        if other_than is not None and file.name == Path(other_than).name:
            continue
        if not file.is_file() or (newer_than is not None and file.stat().st_mtime < newer_than):
            continue
        if is_undamaged(file):
            found = str(file)
            break
        passed.append(file)
    for file in passed if tell is not None else ():
        outcome = f"going on from {found}" if found else "no other whole checkpoint is there"
        tell(f"{file} is damaged or not complete: {outcome}")  # type: ignore[misc]
    return found
