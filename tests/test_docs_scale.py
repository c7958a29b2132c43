"""docs/scale.md: its commands, two machines being two launchers on this one, and srun a stand-in."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from testing_helpers import REPOSITORY

from mmkdprune.commands.launch import torchrun_arguments

PAGE = (REPOSITORY / "docs" / "scale.md").read_text()
ONE, TWO, TORCHRUN, SLURM = (
    block.strip().split("\n") for block in re.findall(r"^```bash\n(.*?)^```", PAGE, flags=re.M | re.S)
)
FEW = (
    " --cfg-options train_cfg.max_epochs=1 train_dataloader.dataset.indices=32 train_dataloader.batch_size=4"
    " val_dataloader.dataset.indices=8"
)


def start(command: str, folder: Path, name: str) -> subprocess.Popen:
    """Run a command of the page on a few images, on a CPU, with one process instead of two on each machine."""
    command = command.replace("10.0.0.1", "127.0.0.1").replace(".py 2", ".py 1")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(REPOSITORY)
    script = f"{command} --work-dir {folder / 'run'}{FEW}"
    with (folder / f"{name}.log").open("w") as log:
        return subprocess.Popen(["bash", "-c", script], cwd=REPOSITORY, env=environment, stdout=log, stderr=log)


@pytest.mark.slow
def test_two_machines(tmp_path):
    processes = [start(command, tmp_path, str(number)) for number, command in enumerate(TWO)]
    codes = [process.wait(timeout=600) for process in processes]
    logs = [(tmp_path / f"{number}.log").read_text() for number in range(2)]
    assert codes == [0, 0], "\n".join(text[-2000:] for text in logs)
    assert (tmp_path / "run" / "epoch_1.pth").is_file()
    assert ["Epoch(val) [1]" in text for text in logs] == [True, False]  # the second one is silent


def test_torchrun_is_asked_for_the_same(monkeypatch):
    for script, torchrun in zip(TWO, TORCHRUN, strict=True):
        words = script.split()
        for name, _, value in (word.partition("=") for word in words[:4]):
            monkeypatch.setenv(name, value)
        settings = torchrun_arguments(words[-1], ["--module", "mmkdprune", "train", words[-2], "--launcher", "pytorch"])
        assert torchrun.replace("=", " ").split() == ["torchrun", *settings]


def test_the_other_commands_are_tested_elsewhere():
    (one,) = ONE  # tests/test_readme.py runs this
    assert re.fullmatch(r"mmkdprune train configs/\S+ --gpus 2", one)
    train, test = SLURM  # tests/test_slurm.py runs these scripts
    assert re.search(r"bash tools/slurm_train\.sh \w+ \w+ (\S+\.py) \S+$", train)
    assert re.match(r"bash tools/slurm_test\.sh \w+ \w+ (\S+\.py) \S+\.pth$", test)
    for config in re.findall(r"configs/\S+\.py", PAGE):
        assert (REPOSITORY / config).is_file()
