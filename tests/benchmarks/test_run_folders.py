import json
import os
import subprocess
import sys
import time

import pytest
from run_folders import SPENT, FolderInUseError, add_up, lock_of, mark_as_running

STAND_STILL = "import os, signal, sys; print(flush=True); os.kill(0, signal.SIGSTOP); sys.exit(4)"


def test_costs_add_up(tmp_path):
    mark_as_running(tmp_path, 1)
    assert add_up(tmp_path, 2.0, 100) == {"wall_s": 2.0, "memory_mib": 100}
    mark_as_running(tmp_path, 1)
    assert add_up(tmp_path, 3.0, 90) == {"wall_s": 5.0, "memory_mib": 100}


def test_a_run_whose_queue_was_killed_is_counted_up_to_its_last_sign(tmp_path):
    log = tmp_path / "output.log"
    log.write_text("")
    (tmp_path / SPENT).write_text(json.dumps({"wall_s": 1.0, "memory_mib": 7, "pid": 1, "since": time.time() - 100}))
    os.utime(log, (time.time() - 60, time.time() - 60))
    mark_as_running(tmp_path, 2)
    assert json.loads((tmp_path / SPENT).read_text())["wall_s"] == pytest.approx(41, abs=2)


def test_a_damaged_note_costs_nothing_but_itself(tmp_path):
    (tmp_path / SPENT).write_text("{")
    assert add_up(tmp_path, 2.0, 100) == {"wall_s": 2.0, "memory_mib": 100}


def test_a_run_that_was_left_standing_still_goes_on(tmp_path):
    command = [sys.executable, "-c", STAND_STILL]
    lock = lock_of(tmp_path)
    fd = lock.fileno()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, pass_fds=[fd])
    mark_as_running(tmp_path, process.pid)
    lock.close()
    process.stdout.readline()
    time.sleep(0.2)
    with pytest.raises(FolderInUseError, match="another process trains in"):
        lock_of(tmp_path)
    assert process.wait(timeout=20) == 4
    process.stdout.close()
    lock_of(tmp_path).close()
