"""Keep a machine quiet while time is measured: queues of training rows stand still meanwhile.

    python benchmarks/quiet.py COMMAND ...

The timing benchmarks do so by themselves.
"""

import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

SETTLE_S = 1.5  # for queues to notice, and their runs to stop

_until_exit = ExitStack()


def lock_file() -> Path:
    """File that is locked while time is measured; one for each user of the machine."""
    return Path(tempfile.gettempdir()) / f"mmkdprune-timing-{os.getuid()}.lock"


@contextmanager
def quiet() -> Iterator[None]:
    """Let the queues of this machine stand still; a process that is killed lets them go on, too."""
    with lock_file().open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)  # several may measure at once
        time.sleep(SETTLE_S)
        yield


def is_timing() -> bool:
    """Tell whether some process measures time."""
    try:
        with lock_file().open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def keep_quiet() -> None:
    """Let the queues of this machine stand still until this process ends."""
    _until_exit.enter_context(quiet())


def main() -> None:
    """Run a command; see the module's docstring."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    with quiet():
        status = subprocess.call(sys.argv[1:])
    sys.exit(status)


if __name__ == "__main__":
    main()
