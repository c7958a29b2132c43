"""Commands that a tool runs for its user."""

import shlex
import signal
import subprocess
import sys


def run_command(command: list[str], label: str, how_to_go_on: str) -> None:
    """Run a command to its end; pass a signal on, let it finish its checkpoint, and end as it does.

    Args:
        command: Program and arguments; they are printed first.
        label: What it does, for the message when it fails or is stopped.
        how_to_go_on: What to do after an interruption.

    Raises:
        SystemExit: The command failed or was stopped by a signal.
    """
    print(f"\n$ {shlex.join(command)}\n", flush=True)
    process = subprocess.Popen(command)
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
