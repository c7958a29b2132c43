import os
import signal
import sys
import time
from pathlib import Path

import pytest

from mmkdprune.commands.processes import run_command

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a process of its parent")


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


@pytest.mark.parametrize("shell", [False, True])
def test_killed_tool_takes_its_command_with_it(tmp_path, shell):
    noted = tmp_path / "pid"
    python = f"import os, pathlib, time; pathlib.Path({str(noted)!r}).write_text(str(os.getpid())); time.sleep(60)"
    command = [sys.executable, "-c", python]
    if shell:  # as tools/dist_train.sh does
        command = ["bash", "-c", 'exec "$@"', "bash", *command]
    tool = os.fork()
    if not tool:
        run_command(command, "run", "")
        os._exit(0)
    wait_for(lambda: noted.is_file() and noted.read_text())
    process = int(noted.read_text())
    assert is_alive(process)
    os.kill(tool, signal.SIGKILL)
    os.waitpid(tool, 0)
    wait_for(lambda: not is_alive(process))
