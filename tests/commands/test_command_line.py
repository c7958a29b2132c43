import errno
import importlib.util
import os
import signal
import sys

import pytest
from mmengine.config import Config
from mmengine.hooks import CheckpointHook

from mmkdprune.commands import command_line
from mmkdprune.commands.interruption import InterruptionGuard
from mmkdprune.config.dataloaders import set_dataloader_defaults
from mmkdprune.config.reading import read_config
from mmkdprune.errors import UsageError


def test_programming_errors_keep_their_traceback():
    with pytest.raises(ValueError, match="deep"), command_line.readable_errors():
        int("deep")
    with pytest.raises(KeyError), command_line.readable_errors(building=True):
        {}["key"]
    with pytest.raises(ValueError, match="x"), command_line.readable_errors(debug=True, building=True):
        raise ValueError("x")
    with pytest.raises(SystemExit), command_line.readable_errors(building=True):
        raise ValueError("x")


def test_repeated_command(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "-u", "t.py", "c.py", "--resume", "old.pth", "--amp"])
    monkeypatch.setattr(sys, "argv", sys.orig_argv[2:])
    assert command_line.repeat_command("w", "--resume", "x y.pth") == (
        "python -u t.py c.py --amp --work-dir w --resume 'x y.pth'"
    )
    monkeypatch.setattr(sys, "argv", ["t.py", "c.py", "--launcher", "pytorch", "--overwrite", "--work-dir=w"])
    monkeypatch.setenv(command_line.LAUNCH_VARIABLE, "NNODES=2 bash dist_train.sh c.py 2 ")
    assert command_line.repeat_command("w") == "NNODES=2 bash dist_train.sh c.py 2 --work-dir=w"


def test_dataloader_defaults():
    loader = {"num_workers": 0, "persistent_workers": True, "pin_memory": True}
    config = Config({"a": dict(loader), "b": {"num_workers": 2}, "c": None, "default_scope": "mmpretrain"})
    set_dataloader_defaults(config, ("a", "b", "c"), pin_memory=False, persistent_workers=True)
    assert config.a == {**loader, "persistent_workers": False, "pin_memory": False, "collate_fn": config.b.collate_fn}
    assert config.b.persistent_workers
    detection = Config({"a": {"num_workers": 2}, "default_scope": "mmdet"})
    set_dataloader_defaults(detection, ["a"], pin_memory=True)
    assert detection.a == {"num_workers": 2, "pin_memory": True}


def test_signals_wait_for_the_end_of_a_save():
    saved = []

    def save():
        signal.raise_signal(signal.SIGTERM)
        saved.append(True)

    previous = signal.getsignal(signal.SIGTERM)
    with InterruptionGuard() as guard:
        with pytest.raises(KeyboardInterrupt):
            guard.protect(save)()
        # A launcher's signal right after the first one must not break into the farewell.
        signal.raise_signal(signal.SIGINT)
    assert saved
    assert guard.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is previous


def test_saves_of_the_checkpoint_hook_are_protected():
    class ToyRunner:
        hooks = [CheckpointHook()]

    guard = InterruptionGuard()
    guard.protect_checkpoints(ToyRunner())
    assert ToyRunner.hooks[0]._save_checkpoint.__wrapped__ is not None


@pytest.mark.parametrize(
    ("text", "extra"),
    [
        ("_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'", "det"),
        ("_base_ = 'mmseg::fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py'", "seg"),
        ("default_scope = 'mmdet'", "det"),
        ("default_scope = 'mmseg'", "seg"),
    ],
)
def test_an_absent_package_is_named_with_what_installs_it(tmp_path, monkeypatch, text, extra):
    config = tmp_path / "config.py"
    config.write_text(text + "\n")
    monkeypatch.setattr("mmengine.config.config.is_installed", lambda package: False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    title = {"det": "MMDetection", "seg": "MMSegmentation"}[extra]
    message = rf'config.py needs {title}, which is not installed: pip install "mmkdprune\[{extra}\]"'
    with pytest.raises(UsageError, match=message):
        read_config(str(config))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py", "needs MMDetection, which is not installed: pip install"),
        ("mmseg::fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py", "needs MMSegmentation, which is not installed: pip"),
        ("mmrotate::a/b.py", "mmrotate is not installed, and mmrotate::a/b.py is one of its configs"),
    ],
)
def test_a_config_of_an_absent_package_installs_nothing(name, text, monkeypatch, capsys):
    """MMEngine's ``get_config`` calls pip."""
    monkeypatch.setattr("mmkdprune.config.reading.is_installed", lambda package: False)
    monkeypatch.setattr("mmengine.hub.hub.install_package", pytest.fail)
    with pytest.raises(SystemExit), command_line.readable_errors():
        read_config(name)
    assert text in capsys.readouterr().err


def test_other_absent_modules_keep_their_own_error(tmp_path):
    config = tmp_path / "config.py"
    config.write_text("_base_ = 'mmpose::folder/x.py'\n")
    with pytest.raises(ModuleNotFoundError, match="mmpose is not installed"):
        read_config(str(config))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EEXIST, errno.EDQUOT])
def test_trouble_with_the_disk_is_one_message(number, capsys):
    with pytest.raises(SystemExit), command_line.readable_errors():
        raise OSError(number, os.strerror(number), "work/epoch_1.pth")
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: [Errno {number}] {os.strerror(number)}: 'work/epoch_1.pth'; ")
    assert "->" not in printed
