"""Lock a folder for one run, so that two runs never write into the same work dir."""

import contextlib
import errno
import fcntl
import json
import os
import shlex
import socket
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from mmkdprune.errors import UsageError

from .command_line import rank

# What file systems without locks answer to flock: Lustre without its option, some network and FUSE file systems.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
# There, a run renews the time of its lock file; one that has not for so many seconds is dead, on whatever machine.
HEARTBEAT = 30.0
STALE_AFTER = 300.0


class RunLock:
    """Hold a folder for one run, as a context manager.

    The kernel's lock (``flock``) on a file in the folder: it ends with the process, however that dies, so that a killed
    run leaves nothing behind that stands in the way of the next one. Workers forked by the run do not hold it. The file
    says who has it.

    On a file system without locks the file itself is the lock. A run that holds it renews its time every 30 seconds;
    it is taken over when its process is gone (on the same machine), or when its time is older than 5 minutes.

    Args:
        folder (str | Path): The folder; created where it is missing.
        kind (str): What is locked, for file name and message: several kinds of locks can be held on one folder.
            Defaults to ``'run'``.

    Raises:
        UsageError: Another process holds the lock; the message names it.
        OSError: The folder cannot be created or written to.
    """

    def __init__(self, folder: str | Path, kind: str = "run") -> None:
        self.folder, self.kind = Path(folder), kind
        self.file = self.folder / f".{kind}.lock"
        self._descriptor: int | None = None
        self._created: list[Path] = []
        self._stop: threading.Event | None = None

    def __enter__(self) -> "RunLock":
        self._created = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            if not self._lock():
                self._claim()
        except BaseException:
            self._remove_new_folders()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give the folder free and remove the lock file, and the folder if it is new and empty; once is enough."""
        if self._descriptor is None:
            return
        if self._stop is not None:
            self._stop.set()
        descriptor, self._descriptor = self._descriptor, None
        # Removed while it is still held: whoever waits to lock this file sees that it is not the one in the folder.
        with contextlib.suppress(OSError):
            if _is_file(descriptor, self.file):
                self.file.unlink()
        os.close(descriptor)
        self._remove_new_folders()

    def _lock(self) -> bool:
        """Take the kernel's lock; False where the file system has none and the file is there already."""
        while True:
            descriptor, is_new = self._open()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in _NO_LOCKS and is_new:
                    self._hold(descriptor, renewed=True)
                    return True
                os.close(descriptor)
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    raise self._refusal(_read(self.file)) from None
                if error.errno in _NO_LOCKS:
                    return False
                raise
            if _is_file(descriptor, self.file):
                self._hold(descriptor)
                return True
            os.close(descriptor)  # its holder has just ended and removed it

    def _claim(self) -> None:
        """Take the lock where only files are left to tell: whoever creates the file has it."""
        owner = _read(self.file)
        if not _is_dead(owner, self.file):
            raise self._refusal(owner, f"; if it is gone, remove {self.file}: this file system has no locks")
        with contextlib.suppress(FileNotFoundError):
            self.file.unlink()
        descriptor, is_new = self._open()
        if not is_new:  # another one was faster
            os.close(descriptor)
            raise self._refusal(_read(self.file))
        self._hold(descriptor, renewed=True)

    def _open(self) -> tuple[int, bool]:
        """Open the lock file; also tell whether it was created by that."""
        while True:
            with contextlib.suppress(FileExistsError):
                return os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644), True
            with contextlib.suppress(FileNotFoundError):
                return os.open(self.file, os.O_RDWR), False

    def _hold(self, descriptor: int, renewed: bool = False) -> None:
        self._descriptor = descriptor
        # A worker that outlives a killed run for a moment must not keep its lock.
        os.register_at_fork(after_in_child=self._forget)
        owner = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": time.strftime("%Y-%m-%d %H:%M:%S"),
            "process": _process_start(os.getpid()),
            "command": shlex.join(sys.orig_argv),
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner).encode(), 0)
        if renewed:
            self._stop = threading.Event()
            threading.Thread(target=_renew, args=(self.file, self._stop), daemon=True).start()

    def _forget(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None

    def _remove_new_folders(self) -> None:
        with contextlib.suppress(OSError):  # ends at the first that holds something
            for folder in self._created:
                folder.rmdir()

    def _refusal(self, owner: dict[str, Any], more: str = "") -> UsageError:
        if owner:
            who = f"process {owner.get('pid')} on {owner.get('host')}, since {owner.get('started')}"
            who += f": {owner.get('command')}"
        else:
            who = "a process that has not said which"
        return UsageError(
            f"another {self.kind} is at work in {self.folder} ({who}).\n"
            f"Wait for its end, stop it, or give another --work-dir{more}"
        )


def lock_run(work_dir: str | Path) -> contextlib.AbstractContextManager:
    """Lock the work dir of a run; of several processes the first one does, which writes there.

    When it is refused it ends, and the launcher ends the others.
    """
    return RunLock(work_dir) if rank() == 0 else contextlib.nullcontext()


def _is_file(descriptor: int, file: Path) -> bool:
    """Tell whether an open file is the one that has the name now."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except FileNotFoundError:
        return False


def _read(file: Path) -> dict[str, Any]:
    try:
        owner = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # ValueError: just being written
        return {}
    return owner if isinstance(owner, dict) else {}


def _is_dead(owner: dict[str, Any], file: Path) -> bool:
    """Tell whether the process that created a lock file is gone, or there is no file."""
    if owner.get("host") == socket.gethostname() and isinstance(owner.get("pid"), int):
        return owner.get("process") != _process_start(owner["pid"])
    try:
        return time.time() - file.stat().st_mtime > STALE_AFTER
    except FileNotFoundError:
        return True


def _process_start(pid: int) -> str | None:
    """When a process began, in the kernel's ticks, since numbers of processes come again; None if there is none."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", encoding="utf-8") as stream:
        # The name in the second field may hold anything, brackets included. A zombie is dead.
        state, *fields = stream.read().rpartition(")")[2].split()
        return None if state == "Z" else fields[18]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:  # it belongs to somebody else
        pass
    return "unknown"


def _renew(file: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT):
        with contextlib.suppress(OSError):
            os.utime(file)
