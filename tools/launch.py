"""Start several processes on this machine, as torchrun does; for ``dist_train.sh`` and ``dist_test.sh``.

Only the ending differs: Ctrl-C and a failed process end in one line instead of the launcher's own stack trace, since
the processes themselves have said what there is to say.
"""

import logging
import signal
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

if __name__ == "__main__":
    # What is left of the launcher's log repeats the signals it got and sent.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        main()
    except SignalException as stop:
        sys.exit(128 + stop.sigval)
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        code = failure.exitcode
        cause = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        sys.exit(f"error: the process of rank {rank} {cause}; see its output above")
