import pytest
from testing_helpers import run_two_processes


@pytest.mark.slow
@pytest.mark.parametrize("script", ["ddp_step.py", "ddp_mcl.py"])
def test_two_processes_take_the_step_of_one(script, tmp_path):
    run_two_processes(script, tmp_path)
