import errno
import fcntl
import json
import os
import signal
import socket
import time

import pytest

from mmkdprune.commands import run_lock
from mmkdprune.commands.run_lock import RunLock
from mmkdprune.errors import UsageError


@pytest.fixture(params=["kernel's lock", "file alone"])
def either_file_system(request, monkeypatch):
    if request.param == "file alone":

        def without(descriptor, operation):
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

        monkeypatch.setattr(fcntl, "flock", without)


def in_other_process(work):
    """Fork, do the work there, and wait until it is done; returns the process, which then waits to be killed."""
    ready, done = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            keep = work()  # noqa: F841  (held until the end)
            os.write(done, b"1")
            while True:
                signal.pause()
        finally:
            os._exit(1)
    os.close(done)
    assert os.read(ready, 1) == b"1"
    return pid


def kill(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_second_run_is_refused_and_told_who_has_the_folder(tmp_path, either_file_system):
    with RunLock(tmp_path):
        with pytest.raises(UsageError) as refused, RunLock(tmp_path):
            pass
        for word in (str(tmp_path), f"process {os.getpid()} on {socket.gethostname()}", "pytest", "another --work-dir"):
            assert word in str(refused.value)
        with RunLock(tmp_path, "pipeline"), RunLock(tmp_path / "other"):
            pass
    with RunLock(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_lock_of_a_killed_run_is_stale(tmp_path, either_file_system):
    pid = in_other_process(lambda: RunLock(tmp_path).__enter__())
    with pytest.raises(UsageError, match=f"process {pid} "), RunLock(tmp_path):
        pass
    kill(pid)
    assert (tmp_path / ".run.lock").is_file()
    with RunLock(tmp_path):
        assert json.loads((tmp_path / ".run.lock").read_text())["pid"] == os.getpid()


def test_zombie_holds_nothing(tmp_path, either_file_system):
    pid = in_other_process(lambda: RunLock(tmp_path).__enter__())
    os.kill(pid, signal.SIGKILL)
    while run_lock._process_start(pid) is not None:
        time.sleep(0.01)
    with RunLock(tmp_path):
        pass
    os.waitpid(pid, 0)


def test_worker_that_outlives_its_run_does_not_hold_the_lock(tmp_path):
    def start():
        lock = RunLock(tmp_path).__enter__()
        worker = in_other_process(lambda: None)
        (tmp_path / "worker").write_text(str(worker))
        return lock

    kill(in_other_process(start))
    worker = int((tmp_path / "worker").read_text())
    os.kill(worker, 0)  # alive
    with RunLock(tmp_path):
        os.kill(worker, signal.SIGKILL)


def test_other_machine_without_kernel_locks_counts_by_the_time_of_its_file(tmp_path, monkeypatch):
    def without(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", without)
    file = tmp_path / ".run.lock"
    file.write_text(json.dumps({"pid": 1, "host": "elsewhere", "process": "5"}))
    with pytest.raises(UsageError, match=r"elsewhere.*[\s\S]*remove .*\.run\.lock"), RunLock(tmp_path):
        pass
    os.utime(file, (time.time() - run_lock.STALE_AFTER - 5,) * 2)
    monkeypatch.setattr(run_lock, "HEARTBEAT", 0.01)
    with RunLock(tmp_path):
        os.utime(file, (0, 0))
        deadline = time.monotonic() + 10
        while file.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert file.stat().st_mtime > 0  # renewed


def test_lock_removed_while_another_one_waits_for_it(tmp_path, monkeypatch):
    first = RunLock(tmp_path).__enter__()
    lock = fcntl.flock

    def late(descriptor, operation):
        first.release()  # between the opening of the file and its locking
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with RunLock(tmp_path) as second:
        monkeypatch.undo()
        assert os.path.samestat(os.fstat(second._descriptor), os.stat(second.file))
        with pytest.raises(UsageError), RunLock(tmp_path):
            pass


def test_new_folder_of_a_run_that_did_not_start_is_removed(tmp_path):
    with pytest.raises(ValueError, match="x"), RunLock(tmp_path / "a" / "b"):
        raise ValueError("x")
    assert not list(tmp_path.iterdir())
    with RunLock(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "log").write_text("1")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["log"]
