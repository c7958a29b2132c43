"""Files that are replaced whole or not at all, and checkpoints that are removed only after their successor is there.

MMEngine opens the target for writing, so an interrupt or a full disk leaves half a file in the place of a good one;
and its ``CheckpointHook`` removes the outdated checkpoint *before* it writes the new one.
"""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from .patching import patch


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "wb", encoding: str | None = None) -> Iterator[IO]:
    """Opens a temporary file beside ``path`` that takes its place when the block ends, and only if it ends well.

    On any failure, ``KeyboardInterrupt`` included, the temporary file is removed and a previous file stays as it was.
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
    temporary = os.path.join(os.path.dirname(target), f".{os.path.basename(target)}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, mode, encoding=encoding) as stream:
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


def patch_local_backend() -> None:
    """Makes MMEngine write local files atomically."""
    from mmengine.fileio import LocalBackend

    patch(LocalBackend, "put", _atomic_put)
    patch(LocalBackend, "put_text", _atomic_put_text)


def patch_checkpoint_hook() -> None:
    """Makes ``CheckpointHook`` remove an outdated checkpoint after, not before, the next one is on the disk."""
    from mmengine.hooks import CheckpointHook

    patch(CheckpointHook, "_save_checkpoint_with_step", _remove_after_saving)
    patch(CheckpointHook, "_save_best_checkpoint", _remove_after_saving)
