"""Checkpoint files against their own checksums: a flipped bit or a zeroed page would load as other weights.

``torch.save`` writes a zip archive with a CRC-32 of each member, which ``torch.load`` does not read. A file in the
format before PyTorch 1.6 has none; of the published ones, the name often ends in the beginning of their SHA-256.
"""

import errno
import hashlib
import logging
import os
import re
import struct
import threading
import warnings
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

NO_FILE_CHECK_VARIABLE = "MMKDPRUNE_NO_FILE_CHECK"
_BLOCK = 1 << 20
_NAMED_HASH = re.compile(r".*-([0-9a-f]{8,64})\.pth?")
_SIGNATURE = b"PK\x03\x04"

# Files that were found whole, with size, time and inode: tools open one file several times.
_found_whole: set[tuple[str, int, int, int]] = set()
_told: set[str] = set()


def is_checked() -> bool:
    """Tell whether files are checked when they are loaded; ``--no-file-check`` sets the variable that turns it off."""
    return os.environ.get(NO_FILE_CHECK_VARIABLE, "") in ("", "0")


def find_damage(path: str | os.PathLike) -> str | None:
    """Compare a file with its checksums.

    Args:
        path (str | os.PathLike): An existing file.

    Returns:
        str | None: Where it differs; None for a whole file, and for one without checksums.
    """
    state = os.stat(path)
    known = (os.path.realpath(path), state.st_size, state.st_mtime_ns, state.st_ino)
    if known in _found_whole:
        return None
    with open(path, "rb") as stream:
        is_archive = stream.read(len(_SIGNATURE)) == _SIGNATURE or zipfile.is_zipfile(stream)
    damage = _damaged_member(path) if is_archive else None
    if not is_archive:
        _compare_with_name(str(path))
    if damage is None:
        _found_whole.add(known)
    return damage


def start_check(path: str | os.PathLike) -> Callable[[], str | None]:
    """Check a file in a thread while it is loaded.

    Reading and checksums leave Python's lock alone, so that both overlap where there is a second core.

    Args:
        path (str | os.PathLike): An existing file.

    Returns:
        Callable[[], str | None]: Waits for the check and returns what :func:`find_damage` does; None without a check.
    """
    if not is_checked():
        _tell_once(
            NO_FILE_CHECK_VARIABLE,
            f"Files are not checked for damage ({NO_FILE_CHECK_VARIABLE} is set, as by --no-file-check): flipped bits "
            "load as other weights",
        )
        return lambda: None
    outcome: list[Any] = []

    def check() -> None:
        try:
            outcome.append(find_damage(path))
        except BaseException as error:  # of the disk: reading will meet it, too
            outcome.append(f"it cannot be read: {error}")

    thread = threading.Thread(target=check, name="file check", daemon=True)
    thread.start()

    def wait() -> str | None:
        thread.join()
        return outcome[0]

    return wait


def _damaged_member(path: str | os.PathLike) -> str | None:
    """The first member of an archive that differs from its checksum."""
    name = "its list of contents"
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = member.filename
                with archive.open(member) as content:
                    while content.read(_BLOCK):  # the checksum is compared at the end
                        pass
    # What a reader meets in an archive with wrong bits: names, sizes, flags and methods that make no sense.
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, LookupError, RuntimeError, struct.error) as error:
        return f"{name!r} in it differs from its checksum ({error})"
    except OSError as error:
        if error.errno != errno.EINVAL:  # a position before the beginning
            raise
        return f"{name!r} in it is not where it should be"
    return None


def _compare_with_name(path: str) -> None:
    """Warn of a file without checksums whose name ends in another hash than its own, as far as that can be told.

    It is not refused: some publishers name files by the hash of what they were made from.
    """
    match = _NAMED_HASH.fullmatch(os.path.basename(path))
    if match is None:
        _tell_once(path, f"{path} has no checksums (format before PyTorch 1.6): flipped bits would not be found", False)
        return
    with open(path, "rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if not found.startswith(match[1]):
        _tell_once(
            path,
            f"{path} may be damaged: its name says that its SHA-256 begins with {match[1]}, but it begins with "
            f"{found[: len(match[1])]}. It has no other checksum (format before PyTorch 1.6): download it again",
        )


def _tell_once(key: str, text: str, is_warning: bool = True) -> None:
    if key in _told:
        return
    _told.add(key)
    try:
        from mmengine.logging import print_log
    except ImportError:  # loading a file needs no MMEngine
        warnings.warn(text, stacklevel=2)
        return
    print_log(text, logger="current", level=logging.WARNING if is_warning else logging.INFO)
