"""The commands of the README, as a user types them, in a copy of the checkout."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from testing_helpers import REPOSITORY

REAL_CIFAR = REPOSITORY / "data" / "cifar-100-python" / "train"
# These are what runs this file.
RUN_BY_CI = {"make test", "make check"}
# Appended to commands that would take hours: the same code on a few images for one epoch.
FEW_IMAGES = (
    " --cfg-options train_cfg.max_epochs=1 train_dataloader.dataset.indices=32 train_dataloader.batch_size=8"
    " val_dataloader.dataset.indices=32 train_dataloader.num_workers=0 train_dataloader.persistent_workers=False"
    " val_dataloader.num_workers=0 val_dataloader.persistent_workers=False"
)
SHORTER = {
    r"mmkdprune train configs/\S*cifar100.py": FEW_IMAGES,
    r"mmkdprune test": " --cfg-options test_dataloader.dataset.indices=64",
    r"mmkdprune train configs/pruning": " --cfg-options train_cfg.max_epochs=2",
    r"mmkdprune pipeline": " --cfg-options train_dataloader.dataset.indices=320",
}


def blocks(readme: str = "README.md") -> list[str]:
    return re.findall(r"^```bash\n(.*?)^```", (REPOSITORY / readme).read_text(), flags=re.M | re.S)


DEMO, BACKBONE, OWN_DATA, TEACHER, PRUNING, TRANSFER, EVALUATION, ENVIRONMENT, DEVELOP = range(9)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the files that git knows or would add, with this environment as its .venv."""
    folder = tmp_path_factory.mktemp("checkout") / "mmkdprune"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)
    if (mim := REPOSITORY / "mmkdprune" / ".mim").is_dir():  # relative links, which the editable install has made
        shutil.copytree(mim, folder / "mmkdprune" / ".mim", symlinks=True)
    (folder / ".venv").symlink_to(sys.prefix)
    if REAL_CIFAR.is_file():
        (folder / "data").symlink_to(REPOSITORY / "data")
    return folder


def bash(script: str, folder: Path, **variables: str) -> str:
    # `make` takes this environment as it is; the package is that of the copy.
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(folder), **variables}
    # What `make test ARGS=...` passes on is not for the commands under test.
    for name in [name for name in environment if name.startswith(("COV_", "PYTEST_", "MAKE", "MFLAGS", "ARGS"))]:
        environment.pop(name)
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=environment, text=True, capture_output=True
    )
    assert result.returncode == 0, f"{script}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result.stdout + result.stderr


def shortened(command: str) -> str:
    for pattern, options in SHORTER.items():
        if re.match(pattern, command):
            return command + options
    return command


def test_every_command_is_covered_here():
    assert len(blocks()) == 9
    assert set(blocks()[DEVELOP].split("\n")) - {""} == RUN_BY_CI
    assert set(blocks("docs/speed.md")[0].split("\n")) <= set(blocks()[OWN_DATA].split("\n"))
    assert {line for block in blocks("configs/hsakd/README.md") for line in block.split("\n")} <= set(
        blocks()[TEACHER].split("\n")
    )


@pytest.mark.slow
def test_demo_then_the_backbone_in_another_config(checkout):
    output = bash(blocks()[DEMO], checkout)
    accuracy = float(re.search(r"digits: ([\d.]+) % of the test images", output)[1])
    assert accuracy > 97
    dense, compact = re.search(r"\| test images right \| ([\d.]+) % \| ([\d.]+) % \|", output).groups()
    assert float(dense) == float(compact) == accuracy
    for quantity in ("MACs", "parameters", "file"):
        assert float(re.search(rf"\| {quantity} \|.*\| ([\d.]+) \|\n", output)[1]) < 0.5
    assert "init_cfg=dict(type='Pretrained'" in output
    output = bash(blocks()[BACKBONE], checkout)
    assert re.search(r"CifarResNet loaded from .*keys matched, 0 missing, 0 unexpected", output)
    assert float(re.findall(r"accuracy/top1: ([\d.]+)", output)[-1]) > 95
    output = bash("source .venv/bin/activate\n" + blocks()[EVALUATION], checkout)
    assert "linear probe, fitted to features extracted once" in output
    trained, untrained = re.findall(r"^\| digits \| .* \| ([\d.]+) ± [\d.]+ \|$", output, flags=re.M)
    assert float(trained) > 90 > float(untrained)


@pytest.mark.slow
def test_pruning(checkout):
    train, report, variants, compact, onnx = map(shortened, blocks()[PRUNING].strip().split("\n"))
    activate = "source .venv/bin/activate\n"
    output = bash(activate + train, checkout)
    assert "Pruning is finished: 264 filters stay zero" in output
    assert "reports/pruning_report.png" in bash(activate + report, checkout)
    commands = bash(activate + variants, checkout).strip().split("\n")
    assert [command.split()[4].split("/")[1].split("-")[0] for command in commands] == ["sfp", "asrfp"]
    assert re.search(r"\| parameters \| 0.272 M \| 0.1\d\d M \|", bash(activate + compact, checkout))
    assert re.search(r"between ONNX Runtime and PyTorch: \d.\de-0[5-9]", bash(activate + onnx, checkout))
    output = bash(activate + blocks()[TRANSFER], checkout)
    assert re.search(r"compact backbone: \d+ keys matched, 0 missing, 0 unexpected", output)
    assert len(re.findall(r"accuracy/top1: [\d.]+", output)) == 3


@pytest.mark.slow
@pytest.mark.skipif(not REAL_CIFAR.is_file(), reason="real CIFAR-100 is not in data/")
def test_real_data(checkout):
    train, resume, test, export, distributed, fast = map(shortened, blocks()[OWN_DATA].strip().split("\n"))
    activate = "source .venv/bin/activate\n"
    run = checkout / "work_dirs" / "mixskd_resnet18_1xb64-205e_cifar100"
    bash(activate + train, checkout)
    assert "resumed epoch: 1" in bash(activate + resume, checkout)
    (run / "epoch_1.pth").rename(run / "epoch_205.pth")
    assert "accuracy/top1" in bash(activate + test, checkout)
    assert "prefix='backbone.'" in bash(activate + export, checkout)
    shutil.rmtree(run)
    assert "loss_mix_ce" in bash(
        activate + distributed, checkout, CUDA_VISIBLE_DEVICES=""
    )  # the machine may have one GPU only
    assert (run / "epoch_1.pth").is_file()
    assert re.search(r"speed +on: .*fused_optimizer", bash(activate + fast, checkout))


@pytest.mark.slow
def test_teacher_and_student(checkout):
    pipeline, export = map(shortened, blocks()[TEACHER].strip().split("\n"))
    activate = "source .venv/bin/activate\n"
    output = bash(activate + pipeline, checkout)
    teacher, student = map(float, re.findall(r"digits-16px: ([\d.]+) % at the end", output))
    assert min(teacher, student) > 60  # of ten classes, from a fifth of the images
    assert "CHANCE LEVEL" not in output
    assert re.search(r"kept +backbone.*dropped +branches", bash(activate + export, checkout), flags=re.S)


def test_report_and_dry_run(checkout):
    report, dry_run = blocks()[ENVIRONMENT].strip().split("\n")
    assert blocks("docs/installation.md")[0].strip() == report
    activate = "source .venv/bin/activate\n"
    assert "Nothing is wrong." in bash(activate + report, checkout)
    assert "dry run: all of this works; nothing was written" in bash(activate + dry_run, checkout)
    assert not (checkout / "work_dirs" / "mixskd_resnet20_1xb64-20e_digits-16px").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "algorithm"), [("hssakd", "OnlineHSSAKD"), ("mcl", "MCL"), ("lmcl", "LayerwiseMCL")]
)
def test_networks_that_train_together(folder, algorithm, checkout):
    train, export = blocks(f"configs/{folder}/README.md")[0].strip().split("\n")
    few = " --cfg-options train_cfg.max_epochs=1 train_dataloader.dataset.indices=64 val_dataloader.dataset.indices=32"
    activate = "source .venv/bin/activate\n"
    assert "peer1/top1" in bash(activate + train + few, checkout)
    run = checkout / "work_dirs" / Path(train.split()[-1]).stem
    (run / "epoch_1.pth").rename(run / "epoch_12.pth")
    output = bash(activate + export, checkout)
    assert f"{algorithm}, peer 1" in output
    assert list(run.glob("*_peer1_backbone-*.pth"))
