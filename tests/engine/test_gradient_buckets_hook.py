import pytest
from testing_helpers import run_two_processes


@pytest.mark.slow
def test_gradients_of_two_processes_are_the_true_mean(tmp_path):
    """Of every algorithm and in every iteration, channels-last, whatever hooks change after wrapping."""
    run_two_processes("ddp_gradients.py", tmp_path)
