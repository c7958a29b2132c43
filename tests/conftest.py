"""Settings of the whole test run."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # One thread a worker: several workers with a thread a core each are slower than one after the other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
