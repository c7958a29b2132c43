"""Files that are replaced whole or not at all, and checkpoints that are removed only after their successor is there.

MMEngine opens the target for writing, so an interrupt or a full disk leaves half a file in the place of a good one;
and its ``CheckpointHook`` removes the outdated checkpoint *before* it writes the new one.
"""

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from mmkdprune.compat.patching import patch

try:
    import fcntl
except ImportError:  # a system without locks on files: leftovers stay
    fcntl = None  # type: ignore[assignment]

_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "wb", encoding: str | None = None) -> Iterator[IO]:
    """Opens a temporary file beside ``path`` that takes its place when the block ends, and only if it ends well.

    On any failure, ``KeyboardInterrupt`` included, the temporary file is removed and a previous file stays as it was.
    Those that killed processes have left of the same file are removed.
    The folder is created where it is missing. Permissions and symbolic links of an existing file are kept.

    Args:
        path (str | os.PathLike): The file to write.
        mode (str): ``'wb'`` or ``'w'``. Defaults to ``'wb'``.
        encoding (str, optional): Encoding of a text file. Defaults to None.

    Yields:
        IO: The open file.

    Raises:
        OSError: The file cannot be written; the error names ``path``.
    """
    target = os.path.realpath(path)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.exists(target) and not os.path.isfile(target):
        with open(target, mode, encoding=encoding) as stream:  # a device or a pipe is written to, not replaced
            yield stream
        return
    remove_leftovers(*os.path.split(target))
    temporary = temporary_path(target)
    try:
        with open(temporary, mode, encoding=encoding) as stream:
            _mark_in_use(stream.fileno())
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if os.path.exists(target):
            os.chmod(temporary, os.stat(target).st_mode & 0o777)
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, temporary):
            raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk: say which file it was
        raise
    _sync_folder(os.path.dirname(target))


def temporary_path(path: str | os.PathLike) -> str:
    """Name of a file or folder beside ``path`` that is renamed to it once it is complete."""
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(folder, f".{name}.{uuid.uuid4().hex[:8]}.tmp")


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Makes a temporary folder beside ``path`` that takes its place when the block ends, and only if it ends well.

    What killed calls have left of the same folder is removed.

    Args:
        path (str | os.PathLike): The folder to make; it does not exist, or is empty.

    Yields:
        Path: The temporary folder.
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent, target.name)
    temporary = Path(temporary_path(target))
    temporary.mkdir()
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        _mark_in_use(descriptor)
        yield temporary
        if target.exists():
            target.rmdir()
        os.rename(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        os.close(descriptor)


def remove_leftovers(folder: str | Path, name: str | None = None) -> list[str]:
    """Removes what killed processes left of files and folders that they were writing.

    What a living process is writing, on this machine or another that shares the folder, is locked, and stays.

    Args:
        folder (str | os.PathLike): Where to look; folders in it are not searched.
        name (str, optional): Only those of this file or folder. Defaults to None, all.

    Returns:
        list[str]: What was removed.
    """
    removed = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for entry in list(os.scandir(os.fspath(folder))):
            is_ours = _LEFTOVER.fullmatch(entry.name) and (name is None or entry.name[:-13] == f".{name}")
            if is_ours and not entry.is_symlink() and _is_abandoned(entry.path):
                with contextlib.suppress(OSError):
                    shutil.rmtree(entry.path) if entry.is_dir() else os.unlink(entry.path)
                    removed.append(entry.path)
    return removed


def _mark_in_use(descriptor: int) -> None:
    """Locks a temporary file as long as it is open; the lock ends with the process, however that ends."""
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_abandoned(path: str) -> bool:
    if fcntl is None:
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # in use, or a file system without locks
        return False
    finally:
        os.close(descriptor)
    return True


def _sync_folder(folder: str) -> None:
    """Makes the renaming itself durable, where the system knows how to."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _atomic_put(_original: Callable) -> Callable:
    def put(self: Any, obj: bytes, filepath: str | Path) -> None:
        with atomic_write(filepath) as stream:
            stream.write(obj)

    return put


def _atomic_put_text(_original: Callable) -> Callable:
    def put_text(self: Any, obj: str, filepath: str | Path, encoding: str = "utf-8") -> None:
        with atomic_write(filepath, "w", encoding) as stream:
            stream.write(obj)

    return put_text


class _LateRemoval:
    """A storage backend that notes which files to remove instead of removing them."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.removals: list[tuple[Callable, str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        self.removals.append((self.backend.remove, path))

    def rmtree(self, path: str) -> None:
        self.removals.append((self.backend.rmtree, path))


def _remove_after_saving(original: Callable) -> Callable:
    """Lets a saving method of ``CheckpointHook`` remove outdated files only after it wrote the new ones."""

    def save(self: Any, *args: Any, **kwargs: Any) -> None:
        backend = getattr(self, "file_backend", None)
        if backend is None:
            return original(self, *args, **kwargs)
        self.file_backend = late = _LateRemoval(backend)
        try:
            original(self, *args, **kwargs)
        finally:
            self.file_backend = backend
        in_use = {self.last_ckpt, getattr(self, "best_ckpt_path", None)}
        in_use.update(getattr(self, "best_ckpt_path_dict", {}).values())
        for remove, path in late.removals:
            if path not in in_use:  # a run that was resumed can write a best checkpoint of the same name again
                remove(path)

    return save


def _remove_leftovers_first(original: Callable) -> Callable:
    def before_train(self: Any, runner: Any) -> None:
        original(self, runner)
        from mmengine.dist import is_main_process
        from mmengine.fileio import LocalBackend

        folders = [runner.work_dir]
        if isinstance(self.file_backend, LocalBackend):
            folders.append(self.out_dir)
        if is_main_process():
            removed = [
                path for folder in dict.fromkeys(map(os.path.abspath, folders)) for path in remove_leftovers(folder)
            ]
            if removed:
                runner.logger.info(f"Removed what a killed run has left: {', '.join(removed)}")

    return before_train


def patch_local_backend() -> None:
    """Makes MMEngine write local files atomically."""
    from mmengine.fileio import LocalBackend

    patch(LocalBackend, "put", _atomic_put)
    patch(LocalBackend, "put_text", _atomic_put_text)


def patch_checkpoint_hook() -> None:
    """Makes ``CheckpointHook`` remove an outdated checkpoint after, not before, the next one is on the disk.

    Before training it removes what killed runs have left in its folder.
    """
    from mmengine.hooks import CheckpointHook

    patch(CheckpointHook, "before_train", _remove_leftovers_first)

    patch(CheckpointHook, "_save_checkpoint_with_step", _remove_after_saving)
    patch(CheckpointHook, "_save_best_checkpoint", _remove_after_saving)
