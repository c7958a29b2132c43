import pytest
from testing_helpers import run_two_processes


@pytest.mark.slow
def test_two_processes_take_the_step_of_one(tmp_path):
    run_two_processes("ddp_step.py", tmp_path)
