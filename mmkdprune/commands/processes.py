"""Commands that a command runs for its user."""

import ctypes
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

# Of Linux' prctl: the signal that a process gets when its parent dies.
_PR_SET_PDEATHSIG = 1
# The launcher (launch.py) puts its process number here, for the processes that it starts.
LAUNCHER_VARIABLE = "MMKDPRUNE_LAUNCHER"


def ends_with_parent(parent: int) -> Callable[[], None]:
    """Make a function that lets the process that calls it get SIGTERM when its parent dies, however that happens.

    For ``preexec_fn``, and for a process that was just started: all that needs importing is imported here. On other
    systems than Linux it does nothing.

    Args:
        parent: Process number of the parent; if it has died by the time of the call, the process ends at once.
    """
    library = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

    def end_with_parent() -> None:
        if library is None:
            return
        library.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGTERM)

    return end_with_parent


def end_with_launcher() -> None:
    """Let a process of several end when the launcher dies without having ended it."""
    launcher = os.environ.get(LAUNCHER_VARIABLE, "")
    if launcher.isdigit() and os.environ.get("TORCHELASTIC_RUN_ID"):
        ends_with_parent(int(launcher))()


def command_line(name: str, *words: str | os.PathLike) -> list[str]:
    """Return the program and arguments that run one of this package's commands, with this interpreter.

    Args:
        name: Of the subcommand, such as ``'train'``.
        words: Its arguments.
    """
    return [sys.executable, "-m", "mmkdprune", name, *map(str, words)]


def as_typed(command: Sequence[str]) -> str:
    """Return a command as a user would type it.

    Args:
        command: Program and arguments.
    """
    own = [sys.executable, "-m", "mmkdprune"]
    return shlex.join(["mmkdprune", *command[3:]] if list(command[:3]) == own else command)


def run_command(command: list[str], label: str, how_to_go_on: str) -> None:
    """Run a command to its end; pass a signal on, let it finish its checkpoint, and end as it does.

    If this process is killed, the command gets SIGTERM (on Linux).

    Args:
        command: Program and arguments; they are printed first.
        label: What it does, for the message when it fails or is stopped.
        how_to_go_on: What to do after an interruption.

    Raises:
        SystemExit: The command failed or was stopped by a signal.
    """
    print(f"\n$ {as_typed(command)}\n", flush=True)
    process = subprocess.Popen(command, preexec_fn=ends_with_parent(os.getpid()))
    received: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        received.append(number)
        process.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received:
        print(f"stopped in {label}; {how_to_go_on}", file=sys.stderr)
        sys.exit(128 + received[0])
    if status:
        print(f"error: {label} failed (exit code {status}); see its output above", file=sys.stderr)
        sys.exit(status if status > 0 else 1)
