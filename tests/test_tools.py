"""The command-line tools as users run them, on a few digits."""

import contextlib
import errno
import importlib.machinery
import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import mmengine
import pytest
import torch

from mmkdprune.commands import work_dir
from mmkdprune.commands.run_lock import RunLock, lock_run

REPOSITORY = Path(__file__).parent.parent
TOOLS = REPOSITORY / "tools"
SMALL = """
_base_ = '{base}'
train_cfg = dict(max_epochs={epochs})
train_dataloader = dict(batch_size=8, dataset=dict(indices=24))
val_dataloader = dict(dataset=dict(indices=16))
test_dataloader = dict(dataset=dict(indices=16))
default_hooks = dict(logger=dict(interval=1))
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}


def write_config(folder: Path, method: str, epochs: int = 2, extra: str = "") -> Path:
    base = REPOSITORY / f"configs/mixskd/{method}_resnet20_1xb64-20e_digits-16px.py"
    path = folder / f"{method}_tiny.py"
    path.write_text(SMALL.format(base=base, epochs=epochs) + extra)
    return path


def run(*command: object, cwd: Path, code: int = 0, **variables: str) -> str:
    """Run a command as a user would, in another folder, and return what it printed."""
    environment = {**ENVIRONMENT, **variables}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, text=True, capture_output=True, timeout=300, check=False
    )
    output = done.stdout + done.stderr
    assert done.returncode == code, output[-4000:]
    return output


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """Config and work dir of a finished MixSKD run with averaged weights."""
    folder = tmp_path_factory.mktemp("trained")
    config = write_config(folder, "mixskd", extra="custom_hooks = [dict(type='EMAHook', momentum=0.1)]\n")
    output = run(sys.executable, TOOLS / "train.py", config, cwd=folder)
    assert "Traceback" not in output
    return config, folder / "work_dirs" / "mixskd_tiny"


def test_trained_checkpoints(trained):
    _, folder = trained
    assert {path.name for path in folder.glob("*.pth")} == {"epoch_1.pth", "epoch_2.pth"}
    checkpoint = torch.load(folder / "epoch_2.pth", weights_only=True)
    assert checkpoint["meta"]["epoch"] == 2
    assert {key.split(".")[0] for key in checkpoint["state_dict"]} > {"backbone", "head", "branches"}


def test_refuses_to_train_over_checkpoints(trained, call):
    config, folder = trained
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    code, output = call("train.py", config, "--work-dir", folder)
    assert code == 1
    for text in (str(folder), "epoch_2.pth", "--resume", "--overwrite", "--work-dir"):
        assert text in output
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_interrupted_run_resumes_with_the_printed_command(tmp_path, call, monkeypatch):
    config = write_config(tmp_path, "mixskd", epochs=4)
    command = [sys.executable, str(TOOLS / "train.py"), str(config), "--work-dir", "a run", "--cfg-options", "seed=1"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    folder = tmp_path / "a run"
    deadline = time.monotonic() + 120
    while not (folder / "epoch_1.pth").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output[-4000:]
    assert "Traceback" not in output
    last = output.strip().splitlines()[-1]
    match = re.fullmatch(r"stopped by SIGINT; last checkpoint: (.+); resume with: (.+)", last)
    assert match, output[-4000:]
    epoch = torch.load(tmp_path / match[1], weights_only=True)["meta"]["epoch"]
    assert epoch < 4
    again = shlex.split(match[2])
    assert again == [*command, "--resume", match[1]]
    monkeypatch.chdir(tmp_path)
    code, output = call("train.py", *again[2:])
    assert code == 0, output
    assert f"resumed epoch: {epoch}," in output
    assert torch.load(folder / "epoch_4.pth", weights_only=True)["meta"]["epoch"] == 4


def test_truncated_checkpoint(trained, tmp_path, call):
    _, folder = trained
    config = write_config(tmp_path, "plain")
    broken = tmp_path / "broken"
    broken.mkdir()
    half = broken / "epoch_2.pth"
    half.write_bytes((folder / "epoch_2.pth").read_bytes()[:-1000])
    code, output = call("train.py", config, "--work-dir", tmp_path / "new", "--resume", half)
    assert (code, "Traceback" in output) == (1, False)
    assert f"error: {half}" in output
    assert "truncated" in output
    code, output = call("train.py", config, "--work-dir", broken, "--resume")
    assert code == 1
    assert "no whole checkpoint to resume from, only epoch_2.pth" in output
    assert f"--resume: {half} is damaged or not complete: no other whole checkpoint is there" in output
    # The whole one before it is found, whatever MMEngine noted as its last.
    (broken / "epoch_1.pth").write_bytes((folder / "epoch_1.pth").read_bytes())
    (broken / "best_accuracy_top1_epoch_3.pth").write_bytes((folder / "epoch_1.pth").read_bytes())
    for note in ("/elsewhere/epoch_2.pth", ""):
        (broken / "last_checkpoint").write_text(note)
        assert work_dir.find_resumable(broken) == broken / "epoch_1.pth"
    for damage in (b"\xff\xfe epoch_2.pth", bytes(20)):
        (broken / "last_checkpoint").write_bytes(damage)
        assert work_dir.find_resumable(broken) == broken / "epoch_1.pth"
    half.write_bytes((folder / "epoch_2.pth").read_bytes())
    assert work_dir.find_resumable(broken) == half
    assert work_dir.find_resumable(broken, newer_than=time.time() + 10) is None


def test_two_runs_in_one_work_dir(trained, call, monkeypatch):
    config, folder = trained
    before = sorted(folder.iterdir())
    with RunLock(folder):
        code, output = call("train.py", config, "--work-dir", folder, "--resume")
        assert code == 1
        assert f"error: another run is at work in {folder} (process {os.getpid()} on " in output
        # Of several processes the first one locks.
        monkeypatch.setenv("RANK", "1")
        assert isinstance(lock_run(folder), contextlib.nullcontext)
        monkeypatch.delenv("RANK")
    code, output = call("train.py", config, "--work-dir", folder, "--dry-run", "--overwrite")
    assert (code, "nothing was written" in output) == (0, True)
    code, output = call("train.py", config, "--work-dir", folder)
    assert (code, "already holds checkpoints" in output) == (1, True)
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("tool", ["train.py", "test.py"])
def test_work_dir_that_cannot_be_one(trained, tmp_path, call, monkeypatch, tool):
    config, folder = trained
    arguments = [tool, config, *([folder / "epoch_2.pth"] if tool == "test.py" else [])]
    file = tmp_path / "file"
    file.write_text("")
    for work_dir_, message in ((file, "File exists"), (file / "below", "Not a directory")):
        code, output = call(*arguments, "--work-dir", work_dir_)
        assert (code, "Traceback" in output) == (1, False)
        assert f"error: [Errno {20 if work_dir_ != file else 17}] {message}: '{file}" in output

    mkdir = os.mkdir

    def refuse(path, *args, **kwargs):
        if str(path).startswith(str(tmp_path / "new")):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        mkdir(path, *args, **kwargs)

    monkeypatch.setattr(os, "mkdir", refuse)
    code, output = call(*arguments, "--work-dir", tmp_path / "new")
    assert (code, "Traceback" in output) == (1, False)
    assert f"Read-only file system: '{tmp_path / 'new'}'; it can only be read: write elsewhere" in output


def test_full_disk_names_the_file_and_how_to_go_on(trained, tmp_path, call, monkeypatch):
    config, folder = trained
    copy = tmp_path / "run"
    copy.mkdir()
    (copy / "epoch_1.pth").write_bytes((folder / "epoch_1.pth").read_bytes())

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    code, output = call("train.py", config, "--work-dir", copy, "--resume")
    assert (code, "Traceback" in output, "->" in output.split("error:")[1]) == (1, False, False)
    assert "No space left on device: '" in output
    assert "epoch_2.pth'; free some space, or write elsewhere" in output
    assert f"last checkpoint: {copy / 'epoch_1.pth'}; resume with: " in output


def test_resume_with_another_optimizer(trained, tmp_path, call):
    config, folder = trained
    text = config.read_text() + "optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=0.001))\n"
    (tmp_path / config.name).write_text(text)
    code, output = call(
        "train.py", tmp_path / config.name, "--work-dir", tmp_path / "run", "--resume", folder / "epoch_1.pth"
    )
    assert (code, "Traceback" in output) == (1, False)
    assert "error: the checkpoint was saved with another optimizer than AdamW: its state lacks its" in output


def test_wrong_class_count_is_named_and_overwrites_nothing(trained, tmp_path, call):
    config = write_config(tmp_path, "plain")
    folder = tmp_path / "run"
    folder.mkdir()
    old = folder / "epoch_9.pth"
    old.write_bytes((trained[1] / "epoch_1.pth").read_bytes())
    arguments = (config, "--work-dir", folder, "--overwrite", "--cfg-options")
    code, output = call("train.py", *arguments, "model.head.num_classes=7")
    assert (code, "Traceback" in output) == (1, False)
    assert "the training set Digits has" in output
    assert "but model.head.num_classes is 7: set model.head.num_classes=10" in output
    assert old.exists()
    assert call("train.py", *arguments, "train_cfg.max_epochs=1")[0] == 0
    assert [path.name for path in work_dir.find_checkpoints(folder)] == ["epoch_1.pth"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.py"], "absent.py"),
        (["CONFIG", "--work-dir", "HERE"], "itself: give another --work-dir"),
        (["CONFIG", "--amp"], "--amp needs a GPU"),
        (["CONFIG", "--auto-scale-lr", "--cfg-options", "auto_scale_lr={}"], "base_batch_size"),
        (["CONFIG", "--resume", "absent.pth"], "there is no checkpoint absent.pth"),
        (["CONFIG", "--resume", "--overwrite"], "give one of them"),
        (["CONFIG", "--launcher", "pytorch"], "--gpus NUMBER"),
        (["CONFIG", "--cfg-options", "model.type=Nothing"], "Nothing is not in the"),
        (["CONFIG", "--cfg-options", "model.alfa=1"], "unexpected keyword argument 'alfa'"),
        (["CONFIG", "--cfg-options", "train_dataloader.dataset.size=17"], "size must be one of"),
        (["CONFIG", "--cfg-options", "train_dataloader.dataset.indices=25"], "25 images per process leaves a last"),
    ],
)
def test_mistakes_are_one_message(arguments, message, tmp_path, call):
    if "--amp" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    config = write_config(tmp_path, "mixskd")
    if "auto_scale_lr={}" in arguments:
        config.write_text(config.read_text() + "auto_scale_lr = dict(_delete_=True, enable=False)\n")
        arguments = arguments[:-2]
    names = {"CONFIG": config, "HERE": tmp_path}
    code, output = call("train.py", "--work-dir", tmp_path / "run", *(names.get(name, name) for name in arguments))
    assert code in (1, 2)
    assert message in output
    assert "Traceback" not in output


def test_absent_teacher_is_one_message(tmp_path, call):
    config = REPOSITORY / "configs" / "hsakd" / "hsakd_resnet20_resnet8_1xb64-12e_digits-16px.py"
    options = ("--cfg-options", "model.teacher.checkpoint=absent.pth")
    code, output = call("train.py", config, "--work-dir", tmp_path / "run", *options)
    assert (code, "Traceback" in output) == (1, False)
    assert "error: teacher.checkpoint: there is no file absent.pth" in output
    assert "mmkdprune train mmkdprune::hsakd/hsakd-teacher_resnet20_1xb64-12e_digits-16px.py" in output


@pytest.mark.parametrize("field", ["train", "val", "test"])
def test_absent_data_is_explained(field, trained, tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path, "plain")
    tail = "_delete_=True, type='ImageNet', data_root='data/imagenet', pipeline=[])"
    config.write_text(config.read_text() + f"{field}_dataloader['dataset'] = dict(split='train', {tail}\n")
    command = ["test.py", config, trained[1] / "epoch_1.pth"] if field == "test" else ["train.py", config]
    code, output = call(*command, "--work-dir", tmp_path / "run")
    assert (code, "Traceback" in output, "--debug" in output) == (1, False, False)
    assert f"error: {field}_dataloader: the data of ImageNet (data_root='data/imagenet')" in output
    for text in (
        str(tmp_path / "data/imagenet/train"),
        "ln -s /path/to/the/data data/imagenet",
        f"{field}_dataloader.dataset.data_root=",
        "train/<class>/*.JPEG",
    ):
        assert text in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "r.json"], "--out-item metrics"),
        (["--out", "r.txt", "--out-item", "metrics"], "--out r.txt: metrics is written to .pkl, .pickle, .json"),
        (["--out-item", "metrics"], "give --out too"),
    ],
)
def test_out_file_is_checked_first(arguments, message, call):
    code, output = call("test.py", "absent.py", "absent.pth", *arguments)
    assert code == 2
    assert message in output


def test_test_and_export(trained, tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, folder = trained
    checkpoint = folder / "epoch_2.pth"
    # Predictions are compared bit for bit, so both configs have to compute in the same memory format and way.
    plain = write_config(tmp_path, "plain", extra="custom_hooks = []\n")
    out = tmp_path / "predictions.pkl"
    arguments = ("--work-dir", tmp_path / "test", "--out", out, "--cfg-options", "env_cfg.cudnn_benchmark=False")
    code, output = call("test.py", plain, checkpoint, *arguments)
    assert code == 0, output
    assert "128 keys matched, 0 missing, 0 unexpected; train-only in the checkpoint, not loaded: branches.*" in output
    assert "unexpected key in source" not in output
    expected = mmengine.load(out)
    assert len(expected) == 16
    out.unlink()

    code, output = call("export_backbone.py", checkpoint, "exports/", "--check", plain)
    assert code == 0, output
    assert "dropped branches.*" in output
    assert f"in the backbone of {plain}: 126 keys matched, 0 missing, 0 unexpected" in output
    [backbone] = (tmp_path / "exports").glob("mixskd_tiny_backbone-*.pth")
    assert f"checkpoint='{backbone}', prefix='backbone.'" in output
    code, output = call("export_backbone.py", checkpoint, tmp_path / "exports")
    assert code == 1
    assert "exists already" in output

    code, output = call("test.py", plain, backbone, *arguments)
    assert code == 1
    assert "missing (head.fc.weight, head.fc.bias)" in output
    code, output = call("export_backbone.py", checkpoint, tmp_path / "exports", "--part", "classifier")
    assert code == 0
    [classifier] = (tmp_path / "exports").glob("mixskd_tiny_classifier-*.pth")
    # The algorithm's own config: its train-only parts stay as they are, and are said to.
    code, output = call("test.py", config, classifier, *arguments)
    assert code == 0, output
    assert "train-only in the config, not in the checkpoint: branches.*" in output
    for ours, theirs in zip(mmengine.load(out), expected, strict=True):
        assert torch.equal(ours["pred_score"], theirs["pred_score"])
    # Two kinds of weights in one checkpoint.
    for kind in ("ema", "raw"):
        assert call("export_backbone.py", checkpoint, tmp_path / kind / "net", "--weights", kind)[0] == 0
    [ema], [raw] = ((tmp_path / kind).glob("net-*.pth") for kind in ("ema", "raw"))
    ema, raw = (torch.load(path, weights_only=True)["state_dict"]["backbone.conv1.weight"] for path in (ema, raw))
    assert not torch.equal(ema, raw)


def test_two_processes_without_gpu(tmp_path):
    write_config(tmp_path, "mixskd", epochs=1)
    cpu = {"cwd": tmp_path, "CUDA_VISIBLE_DEVICES": ""}  # a machine with one GPU would refuse the second process
    output = run("bash", TOOLS / "dist_train.sh", "mixskd_tiny.py", 2, "--work-dir", "dist", **cpu)
    assert "MixSKD on cpu, 2 processes" in output
    assert (tmp_path / "dist" / "epoch_1.pth").exists()
    plain = write_config(tmp_path, "plain")
    output = run(
        *("bash", TOOLS / "dist_test.sh", plain, tmp_path / "dist" / "epoch_1.pth", 2, "--work-dir", "dist"),
        *("--out", "metrics.json", "--out-item", "metrics"),
        **cpu,
    )
    assert "not loaded: branches.*" in output
    assert "accuracy/top1" in mmengine.load(tmp_path / "metrics.json")
    for script in ("dist_train.sh", "dist_test.sh"):
        assert os.access(TOOLS / script, os.X_OK)
        assert "usage" in run("bash", TOOLS / script, plain, cwd=tmp_path, code=2)


def test_tensorboard(tmp_path, call, monkeypatch):
    config = write_config(tmp_path, "plain", epochs=1)
    folder = tmp_path / "run"
    if importlib.util.find_spec("tensorboard") is None:
        code, output = call("train.py", config, "--work-dir", folder, "--tensorboard")
        assert code == 1
        assert '--tensorboard needs the package tensorboard: pip install "mmkdprune[tensorboard]"' in output
        assert not folder.exists()
        stand_in_for_tensorboard(monkeypatch)
    code, output = call("train.py", config, "--work-dir", folder, "--tensorboard")
    assert code == 0, output
    (events,) = folder.glob("*/vis_data/events.*")
    content = events.read_bytes()
    for name in (b"loss", b"accuracy/top1"):
        assert name in content
    assert list(folder.glob("*/vis_data/scalars.json"))


def stand_in_for_tensorboard(monkeypatch):
    """A writer that notes names and values in a file; TensorBoard itself is optional."""

    class SummaryWriter:
        def __init__(self, folder):
            self.file = Path(folder, "events.stand-in")

        def add_scalar(self, name, value, step):
            with self.file.open("a") as stream:
                stream.write(f"{name} {float(value)} {step}\n")

        def add_text(self, name, text):
            assert name == "config"

        def close(self):
            assert self.file.is_file()

    find_spec = importlib.util.find_spec
    found = importlib.machinery.ModuleSpec("tensorboard", None)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: found if name == "tensorboard" else find_spec(name, *rest)
    )
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)


def test_a_progress_bar_unless_it_is_not_wanted(tmp_path, call, monkeypatch):
    """What it draws, and where it does not, is tested with its hook."""
    from mmkdprune.engine.hooks import progress_bar_hook

    started = []
    monkeypatch.setattr(progress_bar_hook.ProgressBarHook, "_start", lambda self, runner: started.append(self))
    monkeypatch.setattr(progress_bar_hook, "is_interactive", lambda: True)
    monkeypatch.setattr(progress_bar_hook.ProgressBarHook, "_add", lambda *given: None)
    config = write_config(tmp_path, "plain", epochs=1)
    assert call("train.py", config, "--work-dir", tmp_path / "without", "--no-progress")[0] == 0
    assert started == []
    assert call("train.py", config, "--work-dir", tmp_path / "with")[0] == 0
    assert len(started) == 1
