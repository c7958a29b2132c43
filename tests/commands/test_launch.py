import argparse
import os
import shlex
import sys

import pytest

from mmkdprune.commands import launch
from mmkdprune.commands.command_line import LAUNCH_VARIABLE
from mmkdprune.commands.launch import start_again, without_option


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ("c.py --gpus 2 --amp", "c.py --amp"),
        ("c.py --gpus=2 --amp", "c.py --amp"),
        ("--gpus 2 c.py", "c.py"),
        ("c.py", "c.py"),
        ("c.py --gpus --gpus", "c.py"),
    ],
)
def test_without_option(words, left):
    assert without_option(words.split(), "--gpus") == left.split()


def test_what_is_started_and_how_it_is_resumed(monkeypatch):
    started = []
    monkeypatch.setattr(launch, "torchrun", started.append)
    words = ["--gpus", "3", "c.py", "--amp", "--cfg-options", "a=1"]
    monkeypatch.setattr(sys, "argv", ["mmkdprune train", *words])
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "/bin/mmkdprune", "train", *words])
    monkeypatch.setenv(LAUNCH_VARIABLE, "")
    monkeypatch.delenv(LAUNCH_VARIABLE)
    monkeypatch.setenv("PORT", "29777")
    start_again("train", argparse.Namespace(config="c.py", gpus=3, launcher="none"))
    (words,) = started
    assert words[words.index("--nproc_per_node") + 1] == "3"
    assert words[words.index("--master_port") + 1] == "29777"
    command = "--module mmkdprune train c.py --launcher pytorch --amp --cfg-options a=1"
    assert shlex.join(words).endswith(command)
    assert os.environ[LAUNCH_VARIABLE] == "PORT=29777 mmkdprune train c.py --gpus 3"


def test_one_launcher_at_a_time(capsys):
    with pytest.raises(SystemExit) as stop:
        start_again("train", argparse.Namespace(config="c.py", gpus=2, launcher="slurm"))
    assert stop.value.code == 2
    assert "--gpus 2 starts the processes itself: leave --launcher slurm out" in capsys.readouterr().err
