import os
import subprocess
import sys

import pytest
from testing_helpers import REPOSITORY


@pytest.mark.slow
@pytest.mark.parametrize("script", ["ddp_step.py", "ddp_mcl.py"])
def test_two_processes_take_the_step_of_one(script, tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}", "CUDA_VISIBLE_DEVICES": ""}
    logs = [tmp_path / f"{rank}.log" for rank in range(2)]  # a pipe that nobody reads would stop its process
    processes = []
    for rank, log in enumerate(logs):
        command = [sys.executable, str(REPOSITORY / "tests" / script), str(rank), str(tmp_path)]
        with log.open("w") as stream:
            processes.append(subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT))
    codes = [process.wait(timeout=300) for process in processes]
    assert codes == [0, 0], "\n".join(log.read_text()[-2000:] for log in logs)
