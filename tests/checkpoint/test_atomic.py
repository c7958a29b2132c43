import os
import signal
from collections import deque

import numpy as np
import pytest
import torch
import toy_run
from mmengine.fileio import LocalBackend, dump
from mmengine.runner import checkpoint as mmengine_checkpoint

from mmkdprune.checkpoint.atomic import atomic_folder, atomic_write, remove_leftovers
from mmkdprune.checkpoint.loading import load_checkpoint_file


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_interrupted_write_keeps_the_old_file(tmp_path, monkeypatch, error):
    file = tmp_path / "folder" / "epoch_1.pth"
    LocalBackend().put(b"old", file)

    def fail(descriptor):
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises((KeyboardInterrupt, OSError)) as caught:
        LocalBackend().put(b"new", file)
    assert file.read_bytes() == b"old"
    assert os.listdir(file.parent) == ["epoch_1.pth"]
    assert caught.type is KeyboardInterrupt or str(caught.value) == f"[Errno 28] No space left on device: '{file}'"


def test_atomic_write_keeps_permissions_links_and_encoding(tmp_path):
    file, link = tmp_path / "a.txt", tmp_path / "link.txt"
    file.write_text("old")
    file.chmod(0o640)
    link.symlink_to(file)
    LocalBackend().put_text("né", link, encoding="latin-1")
    assert link.is_symlink()
    assert file.read_bytes() == "né".encode("latin-1")
    assert file.stat().st_mode & 0o777 == 0o640
    dump({"a": 1}, tmp_path / "b.json")
    plain = tmp_path / "c.txt"
    plain.write_text("")
    assert (tmp_path / "b.json").stat().st_mode == plain.stat().st_mode
    with atomic_write(os.devnull) as stream:
        stream.write(b"x")
    assert not os.path.isfile(os.devnull)


def test_save_checkpoint_is_plain(tmp_path):
    mmengine_checkpoint.save_checkpoint({"meta": {"lr": np.float64(0.1), "log": deque([1])}}, str(tmp_path / "a.pth"))
    assert load_checkpoint_file(tmp_path / "a.pth") == {"meta": {"lr": 0.1, "log": [1]}}


@pytest.mark.parametrize("save_best", [None, "acc"])
def test_interrupted_save_leaves_a_checkpoint_to_resume_from(tmp_path, monkeypatch, save_best):
    """Stock MMEngine removes the outdated checkpoint first."""
    hook = {"type": "CheckpointHook", "interval": 1, "max_keep_ckpts": 1, "save_best": save_best}
    written = []

    def save_twice(data, file, *args):
        written.append(file)
        if len(written) > (2 if save_best else 1) * 2:
            raise KeyboardInterrupt
        return original(data, file, *args)

    original = torch.save
    monkeypatch.setattr(torch, "save", save_twice)
    runner = toy_run.make_runner(tmp_path, length=6, checkpoint=hook)
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    monkeypatch.undo()
    kept = mmengine_checkpoint.find_latest_checkpoint(str(tmp_path))
    epoch = load_checkpoint_file(kept)["meta"]["epoch"]
    assert 1 <= epoch < 6
    assert [file.name for file in tmp_path.glob("epoch_*.pth")] == [f"epoch_{epoch}.pth"]
    rest = toy_run.make_runner(tmp_path, length=6, checkpoint=hook, resume=True)
    rest.train()
    assert [file.name for file in tmp_path.glob("epoch_*.pth")] == ["epoch_6.pth"]
    assert len(list(tmp_path.glob("best_*.pth"))) == (1 if save_best else 0)


def killed(write):
    """Let another process write, and kill it in the middle."""
    child = os.fork()
    if child == 0:
        with write():
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def test_leftovers_of_killed_writes_are_removed(tmp_path):
    file, folder = tmp_path / "epoch_1.pth", tmp_path / "compact"
    for write in (lambda: atomic_write(file), lambda: atomic_folder(folder)):
        killed(write)
    assert len(list(tmp_path.glob(".*.tmp"))) == 2
    with atomic_write(file) as stream:
        stream.write(b"new")
    (left,) = tmp_path.glob(".*.tmp")
    assert left.name.startswith(".compact.")
    with atomic_folder(folder) as inside:
        (inside / "a").write_text("a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["compact", "epoch_1.pth"]
    assert [path.name for path in folder.iterdir()] == ["a"]


def test_what_is_being_written_and_what_is_not_ours_stays(tmp_path):
    ours, others = tmp_path / ".epoch_2.pth.0123abcd.tmp", tmp_path / ".cache.tmp"
    ours.write_text("half")
    others.write_text("of another program")
    with atomic_write(tmp_path / "epoch_1.pth") as stream:
        assert remove_leftovers(tmp_path) == [str(ours)]
        stream.write(b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".cache.tmp", "epoch_1.pth"]
    assert remove_leftovers(tmp_path / "absent") == []


def test_interrupted_folder(tmp_path):
    def write():
        with atomic_folder(tmp_path / "a") as inside:
            (inside / "file").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []


def test_the_next_run_removes_leftovers_in_its_work_dir(tmp_path):
    (tmp_path / ".epoch_1.pth.0123abcd.tmp").write_text("half")
    toy_run.make_runner(tmp_path, length=1).train()
    assert not list(tmp_path.glob(".*.tmp"))
