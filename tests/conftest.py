"""Settings of the whole test run."""

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # One thread a worker: several workers with a thread a core each are slower than one after the other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def one_thread():
    """Small networks are slower with several."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
