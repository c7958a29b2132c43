"""Start several processes on this machine, as torchrun does; for ``dist_train.sh`` and ``dist_test.sh``.

    python tools/launch.py PROCESSES SCRIPT [arguments of the script]

NNODES, NODE_RANK, MASTER_ADDR and PORT are read from the environment. Ctrl-C and a failed process end in one line
instead of the launcher's own stack trace, since the processes themselves have said what there is to say.
"""

import logging
import os
import signal
import socket
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main


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


if __name__ == "__main__":
    os.environ["MMKDPRUNE_LAUNCHER"] = str(os.getpid())  # a process whose launcher is killed ends, too
    # What is left of the launcher's log repeats the signals it got and sent.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        main(torchrun_arguments(sys.argv[1], sys.argv[2:]))
    except SignalException as stop:
        sys.exit(128 + stop.sigval)
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        code = failure.exitcode
        cause = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        sys.exit(f"error: the process of rank {rank} {cause}; see its output above")
