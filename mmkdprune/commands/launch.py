"""Start several processes on this machine, as torchrun does: ``--gpus``, and the shell scripts in ``tools``.

NNODES, NODE_RANK, MASTER_ADDR and PORT are read from the environment. Ctrl-C and a failed process end in one line
instead of the launcher's own stack trace, since the processes themselves have said what there is to say.
"""

import argparse
import logging
import os
import shlex
import signal
import socket
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from .command_line import LAUNCH_VARIABLE, fail, own_command
from .processes import LAUNCHER_VARIABLE


def free_port() -> str:
    """Find a port, since two runs on one machine must not meet at a fixed one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def torchrun_arguments(processes: str, command: list[str]) -> list[str]:
    """Translate the environment; several machines need a port that all know."""
    nodes = os.environ.get("NNODES") or "1"
    settings = {
        "--nnodes": nodes,
        "--node_rank": os.environ.get("NODE_RANK") or "0",
        "--master_addr": os.environ.get("MASTER_ADDR") or "127.0.0.1",
        "--master_port": os.environ.get("PORT") or (free_port() if nodes == "1" else "29500"),
        "--nproc_per_node": processes,
    }
    return [*(word for setting in settings.items() for word in setting), *command]


def launch(processes: int | str, command: list[str]) -> None:
    """Start processes and wait for their end.

    Args:
        processes: How many on this machine.
        command: A script and its arguments, or ``--module`` with a module's.

    Raises:
        SystemExit: A process failed, or a signal ended them.
    """
    os.environ[LAUNCHER_VARIABLE] = str(os.getpid())  # a process whose launcher is killed ends, too
    # What is left of the launcher's log repeats the signals it got and sent.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        torchrun(torchrun_arguments(str(processes), command))
    except SignalException as stop:
        sys.exit(128 + stop.sigval)
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        code = failure.exitcode
        cause = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        sys.exit(f"error: the process of rank {rank} {cause}; see its output above")


def start_again(name: str, args: argparse.Namespace) -> None:
    """Run this subcommand again in several processes.

    Args:
        name: ``'train'`` or ``'test'``.
        args: Its arguments: ``config``, ``gpus`` and ``launcher`` count.

    Raises:
        SystemExit: As in :func:`launch`, and where another launcher is asked for.
    """
    if args.launcher != "none":
        fail(f"--gpus {args.gpus} starts the processes itself: leave --launcher {args.launcher} out", 2)
    words = without_option(sys.argv[1:], "--gpus")
    words.remove(args.config)
    # What the command that resumes begins with, in place of what the launcher passes on.
    again = [*own_command(), args.config, "--gpus", str(args.gpus)]
    settings = [
        f"{key}={os.environ[key]}" for key in ("NNODES", "NODE_RANK", "MASTER_ADDR", "PORT") if key in os.environ
    ]
    os.environ.setdefault(LAUNCH_VARIABLE, shlex.join([*settings, *again]))
    launch(args.gpus, ["--module", "mmkdprune", name, args.config, "--launcher", "pytorch", *words])


def without_option(words: Sequence[str], option: str) -> list[str]:
    """Return a command line's words without an option that has one value.

    Args:
        words: Of the command line.
        option: Such as ``'--gpus'``.
    """
    kept: list[str] = []
    is_value = False
    for word in words:
        if not (is_value or word == option or word.startswith(f"{option}=")):
            kept.append(word)
        is_value = word == option and not is_value
    return kept
