"""The Slurm scripts with a stand-in for srun: what it is asked for, and what the processes get."""

import os
import subprocess
import sys

import pytest
from testing_helpers import REPOSITORY

SRUN = """#!/bin/sh
echo "$MMKDPRUNE_LAUNCH" > "$FOLDER/launch"
for word in "$@"; do echo "$word"; done > "$FOLDER/words"
"""


@pytest.fixture
def srun(tmp_path):
    """Run a script; returns the words that srun got and the command that resumes."""
    program = tmp_path / "bin" / "srun"
    program.parent.mkdir()
    program.write_text(SRUN)
    program.chmod(0o755)

    def run(script, *arguments, code=0, **variables):
        environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "FOLDER": str(tmp_path)}
        command = ["bash", f"tools/{script}", *arguments]
        done = subprocess.run(
            command, cwd=REPOSITORY, env={**environment, **variables}, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        if code:
            return done.stderr
        return (tmp_path / "words").read_text().splitlines(), (tmp_path / "launch").read_text().strip()

    return run


def test_training(srun):
    variables = {"GPUS": "16", "CPUS_PER_TASK": "7", "SRUN_ARGS": "--time=1-0 --mem=64G", "PYTHON": sys.executable}
    words, launch = srun("slurm_train.sh", "gpu", "my job", "c.py", "work/a", "--amp", "--seed", "a b", **variables)
    script = words.index(sys.executable)
    assert words[:script] == [
        *("-p", "gpu", "--job-name=my job", "--gres=gpu:8", "--ntasks=16", "--ntasks-per-node=8"),
        *("--cpus-per-task=7", "--kill-on-bad-exit=1", "--time=1-0", "--mem=64G"),
    ]
    assert words[script + 1 :] == [
        *("-u", str(REPOSITORY / "tools/train.py"), "c.py", "--launcher", "slurm", "--work-dir=work/a"),
        *("--amp", "--seed", "a b"),
    ]
    assert launch.startswith(r"GPUS=16 CPUS_PER_TASK=7 SRUN_ARGS=--time=1-0\ --mem=64G PYTHON=")
    assert launch.endswith(r"bash tools/slurm_train.sh gpu my\ job c.py work/a")


def test_the_command_that_resumes(srun, monkeypatch):
    from mmkdprune.commands import command_line

    monkeypatch.delenv("PYTHON", raising=False)  # as `make PYTHON=... test` sets it
    words, launch = srun("slurm_train.sh", "gpu", "job", "c.py", "work", "--amp")
    monkeypatch.setenv(command_line.LAUNCH_VARIABLE, launch)
    monkeypatch.setattr(sys, "argv", words[words.index(str(REPOSITORY / "tools/train.py")) :])
    again = command_line.repeat_command("work", "--resume")
    assert again == "bash tools/slurm_train.sh gpu job c.py work --work-dir=work --amp --resume"


@pytest.mark.parametrize(("gpus", "per_node"), [("4", "4"), ("8", "8")])
def test_few_gpus_are_on_one_machine(srun, gpus, per_node):
    words, _ = srun("slurm_test.sh", "gpu", "job", "c.py", "epoch_1.pth", "--out", "r.pkl", GPUS=gpus)
    assert f"--ntasks={gpus}" in words
    assert f"--gres=gpu:{per_node}" in words
    script = words.index(str(REPOSITORY / "tools/test.py"))
    assert words[script + 1 :] == ["c.py", "epoch_1.pth", "--launcher", "slurm", "--out", "r.pkl"]


@pytest.mark.parametrize("script", ["slurm_train.sh", "slurm_test.sh"])
def test_usage(srun, script):
    assert f"usage: bash tools/{script} PARTITION JOB_NAME CONFIG" in srun(script, "gpu", "job", "c.py", code=2)
