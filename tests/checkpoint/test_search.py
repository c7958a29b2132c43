import os

import torch

from mmkdprune.checkpoint.search import newest_whole_checkpoint, sort_by_progress
from mmkdprune.commands.work_dir import find_checkpoints, find_resumable


def make(folder, **times):
    for name, time in times.items():
        torch.save({}, folder / f"{name}.pth")
        os.utime(folder / f"{name}.pth", (time, time))


def test_one_order_for_all(tmp_path):
    """The number counts before the time; the time between files of one number and between epochs and iterations."""
    make(tmp_path, epoch_9=5, epoch_10=1, best_acc_epoch_10=2, epoch_2=9, iter_800=8, best=99)
    names = ["best.pth", "iter_800.pth", "epoch_2.pth", "epoch_9.pth", "epoch_10.pth", "best_acc_epoch_10.pth"]
    assert [file.name for file in sort_by_progress(tmp_path.iterdir())] == names
    assert [file.name for file in find_checkpoints(tmp_path)] == names[1:]
    newest = tmp_path / "epoch_10.pth"
    assert newest_whole_checkpoint(tmp_path) == str(newest)
    assert find_resumable(tmp_path) == newest
    assert newest_whole_checkpoint(tmp_path, other_than=newest) == str(tmp_path / "epoch_9.pth")
    assert find_resumable(tmp_path, newer_than=4) == tmp_path / "epoch_9.pth"
    make(tmp_path, iter_800=10)
    assert newest_whole_checkpoint(tmp_path) == str(tmp_path / "iter_800.pth")


def test_noted_checkpoint_wins(tmp_path):
    make(tmp_path, epoch_1=2, epoch_10=1)
    (tmp_path / "last_checkpoint").write_text("/another/machine/epoch_1.pth")
    assert find_resumable(tmp_path) == tmp_path / "epoch_1.pth"
    assert find_resumable(tmp_path, newer_than=3) is None
    (tmp_path / "epoch_1.pth").write_bytes(b"half")
    assert find_resumable(tmp_path) == tmp_path / "epoch_10.pth"
    assert newest_whole_checkpoint(tmp_path, noted="") == str(tmp_path / "epoch_10.pth")
    assert newest_whole_checkpoint(tmp_path / "absent", noted="epoch_1.pth") is None
