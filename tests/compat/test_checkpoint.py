import contextlib
import enum
import os
import shutil
import subprocess
import sys
from collections import Counter, OrderedDict, deque
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.fileio import LocalBackend, dump
from mmengine.hooks import CheckpointHook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import CheckpointLoader, Runner
from mmengine.runner import checkpoint as mmengine_checkpoint

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))  # see test_random_state_hook.py
import toy_run

from mmkdprune.compat import install
from mmkdprune.compat.atomic import atomic_write
from mmkdprune.compat.checkpoint import (
    UNSAFE_LOAD_VARIABLE,
    CorruptCheckpointError,
    UnsafeCheckpointError,
    load_checkpoint_file,
    newest_whole_checkpoint,
)
from mmkdprune.compat.plain import to_plain

FRESH_PROCESS = """
import sys, torch
for file in sys.argv[1:]:
    checkpoint = torch.load(file, weights_only=True)
    assert checkpoint["message_hub"]["runtime_info"]["iter"] >= 0
    assert checkpoint["optimizer"]["state"] and checkpoint["ema_state_dict"] and checkpoint["mmkdprune"]
assert not any(name.startswith(("mmkdprune", "mmengine")) for name in sys.modules)
# A process with stock MMEngine resumes the weights and what it knows of the rest.
from mmengine.logging import HistoryBuffer, MessageHub
hub = MessageHub.get_instance("stock")
hub.load_state_dict(checkpoint["message_hub"])
assert "mmkdprune" not in sys.modules
print("loaded", hub.get_info("max_iters"))
"""


class Colour(enum.StrEnum):
    RED = "red"


class Opaque:
    """Not plain."""


@pytest.fixture
def hub():
    MessageHub._instance_dict.pop("test_checkpoint", None)
    return MessageHub.get_instance("test_checkpoint")


@pytest.fixture
def unsafe_file(tmp_path):
    file = tmp_path / "old.pth"
    torch.save({"meta": {}, "state_dict": {"w": torch.ones(2)}, "message_hub": HistoryBuffer([1.0], [1])}, file)
    return file


def reload(data, file):
    torch.save(data, file)
    return torch.load(file, weights_only=True)


# Plain data ------------------------------------------------------------------------------------------------------


def test_to_plain(tmp_path):
    data = {
        "numbers": [np.float64(1.5), np.float32(0.5), np.int64(2), np.bool_(True), np.longdouble(3)],
        "arrays": (np.arange(3), np.array(["a", "b"]), np.ones(2)[::-1], np.array([7], dtype=np.uint32)),
        "deque": deque([1, 2], 2),
        "set": frozenset({1}),
        "texts": [np.str_("x"), Colour.RED, Path("a") / "b", b"y"],
        "config": ConfigDict(a=ConfigDict(b=np.int32(4))),
        np.int64(3): None,
        "counter": Counter([2, 2]),
    }
    plain, left_out = to_plain(data)
    loaded = reload(plain, tmp_path / "plain.pth")
    assert left_out == []
    assert loaded["numbers"] == [1.5, 0.5, 2, True, 3.0]
    assert [type(number) for number in loaded["numbers"]] == [float, float, int, bool, float]
    assert [getattr(value, "tolist", lambda value=value: value)() for value in loaded["arrays"]] == [
        [0, 1, 2], ["a", "b"], [1, 1], [7]
    ]  # fmt: skip
    assert loaded["deque"] == [1, 2]
    assert loaded["set"] == {1}
    assert loaded["texts"] == ["x", "red", os.path.join("a", "b"), b"y"]
    assert type(loaded["texts"][1]) is str
    assert loaded["config"] == {"a": {"b": 4}}
    assert loaded[3] is None
    assert loaded["counter"] == Counter({2: 2})  # MultiStepLR's milestones


def test_to_plain_leaves_out_what_has_no_plain_form():
    plain, left_out = to_plain({"a": {"b": [1, Opaque()], "c": 2}, "f": print, Opaque: 1})
    assert plain == {"a": {"c": 2}}
    assert [entry.split(" ")[0] for entry in left_out[:2]] == ["a.b[1]", "f"]
    assert len(left_out) == 3
    assert to_plain(Opaque())[0] is None


def test_to_plain_shares_tensors_and_keeps_untouched_containers():
    state_dict = torch.nn.BatchNorm1d(2).state_dict()
    checkpoint = {"state_dict": state_dict, "meta": {"epoch": np.int64(1)}}
    plain, _ = to_plain(checkpoint)
    assert plain["state_dict"] is state_dict
    assert isinstance(checkpoint["meta"]["epoch"], np.int64)  # the caller's data stay as they are
    changed = OrderedDict(state_dict, extra=np.float64(1))
    changed._metadata = state_dict._metadata
    plain, _ = to_plain(changed)
    assert plain["weight"] is state_dict["weight"]
    assert plain._metadata is state_dict._metadata


# The message hub --------------------------------------------------------------------------------------------------


def test_message_hub_round_trip(hub, tmp_path):
    for value in (1.0, 0.5, 0.25):
        hub.update_scalar("train/loss", value, count=2)
    hub.update_scalar("hidden", 1, resumed=False)
    hub.update_info("eta", np.float64(3.5))
    hub.update_info("best", np.arange(2))
    state = reload(hub.state_dict(), tmp_path / "hub.pth")
    assert state["log_scalars"]["train/loss"]["max_length"] == 1_000_000
    assert type(state["runtime_info"]["eta"]) is float

    MessageHub._instance_dict.pop("test_checkpoint")
    other = MessageHub.get_instance("test_checkpoint")
    other.load_state_dict(state)
    buffer = other.get_scalar("train/loss")
    assert isinstance(buffer, HistoryBuffer)
    assert buffer.data[0].tolist() == [1.0, 0.5, 0.25]
    assert buffer.data[1].tolist() == [2, 2, 2]
    other.update_scalar("train/loss", 0.125)
    assert buffer.mean(2) == pytest.approx((0.25 + 0.125) / 3)
    assert hub.get_scalar("train/loss").current() == 0.25  # loading copied
    assert "hidden" not in other.log_scalars
    assert other.get_info("eta") == 3.5


def test_message_hub_reads_older_forms(hub):
    hub.load_state_dict(
        {
            "log_scalars": OrderedDict(loss=HistoryBuffer([1.0], [1])),
            "runtime_info": OrderedDict(epoch=3),
            "resumed_keys": {"loss": True, "epoch": True},
        }
    )
    assert hub.get_scalar("loss").current() == 1.0
    other = MessageHub.get_instance("test_checkpoint_copy")
    other.load_state_dict(hub)
    assert other.get_info("epoch") == 3


def test_message_hub_names_what_it_leaves_out(hub, monkeypatch):
    messages = []
    monkeypatch.setattr("mmengine.logging.print_log", lambda message, **kwargs: messages.append(message))
    hub.update_info("model", Opaque())
    hub.update_info("epoch", 1)
    state = hub.state_dict()
    assert state["runtime_info"] == {"epoch": 1}
    assert state["resumed_keys"] == {"epoch": True}
    assert "model (" in messages[0]


# Whole runs -------------------------------------------------------------------------------------------------------


def test_raw_checkpoints_load_in_a_fresh_process(tmp_path):
    one_cycle = {"type": "OneCycleLR", "eta_max": 0.1, "total_steps": 3, "by_epoch": False}  # holds a function
    for by_epoch in (True, False):
        length, scheduler = (1, {"type": "MultiStepLR", "milestones": [1]}) if by_epoch else (3, one_cycle)
        runner = toy_run.make_runner(tmp_path, by_epoch=by_epoch, length=length, param_scheduler=scheduler)
        runner.train()
    files = [str(tmp_path / "epoch_1.pth"), str(tmp_path / "iter_3.pth")]
    done = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, *files], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert "loaded 3" in done.stdout, done.stderr
    resumed = toy_run.make_runner(tmp_path, by_epoch=False, length=3, param_scheduler=one_cycle, resume=True)
    resumed.train()
    assert resumed.iter == 3


def test_old_checkpoint_is_resumed_only_on_request(tmp_path, monkeypatch):
    toy_run.make_runner(tmp_path, length=1).train()
    file = tmp_path / "epoch_1.pth"
    checkpoint = load_checkpoint_file(file)
    scalars = checkpoint["message_hub"]["log_scalars"]
    for key, value in scalars.items():  # as stock MMEngine writes it
        scalars[key] = HistoryBuffer(value["log_history"].tolist(), value["count_history"].tolist())
    del checkpoint["mmkdprune"]
    torch.save(checkpoint, file)
    with pytest.raises(UnsafeCheckpointError, match="HistoryBuffer"):
        toy_run.make_runner(tmp_path, length=2, resume=True).train()
    monkeypatch.setenv(UNSAFE_LOAD_VARIABLE, "1")
    with pytest.warns(UserWarning, match="can run any code"):
        toy_run.make_runner(tmp_path, length=2, resume=True).train()
    assert load_checkpoint_file(tmp_path / "epoch_2.pth")["meta"]["epoch"] == 2


def test_published_checkpoint_is_plain(tmp_path):
    hook = {"type": "CheckpointHook", "interval": 1, "published_keys": ["meta", "state_dict"]}
    toy_run.make_runner(tmp_path, length=1, checkpoint=hook).train()
    published = load_checkpoint_file(next(tmp_path.glob("epoch_1-*.pth")))
    assert published.keys() == {"meta", "state_dict"}
    assert torch.is_tensor(published["meta"]["dataset_meta"]["palette"])


# Loading ----------------------------------------------------------------------------------------------------------


def test_unsafe_file(unsafe_file, monkeypatch):
    for load in (load_checkpoint_file, CheckpointLoader.load_checkpoint):
        with pytest.raises(UnsafeCheckpointError) as caught:
            load(str(unsafe_file))
        for part in (str(unsafe_file), "mmengine.logging.history_buffer.HistoryBuffer", f"{UNSAFE_LOAD_VARIABLE}=1"):
            assert part in str(caught.value)
        assert caught.value.__context__ is None
    monkeypatch.setenv(UNSAFE_LOAD_VARIABLE, "0")
    with pytest.raises(UnsafeCheckpointError):
        load_checkpoint_file(unsafe_file)
    monkeypatch.setenv(UNSAFE_LOAD_VARIABLE, "1")
    with pytest.warns(UserWarning, match="HistoryBuffer"):
        assert isinstance(load_checkpoint_file(unsafe_file)["message_hub"], HistoryBuffer)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_file(tmp_path, zipped, share):
    file = tmp_path / "epoch_2.pth"
    data = {"state_dict": {f"layer{i}.weight": torch.rand(9, 9) for i in range(9)}}
    torch.save(data, tmp_path / "epoch_1.pth")
    torch.save(data, file, _use_new_zipfile_serialization=zipped)
    assert load_checkpoint_file(file)["state_dict"].keys() == data["state_dict"].keys()
    size = int(file.stat().st_size * share)
    os.truncate(file, size)
    for load in (load_checkpoint_file, CheckpointLoader.load_checkpoint):
        with pytest.raises(CorruptCheckpointError) as caught:
            load(str(file))
        for part in (str(file), f"({size:,} bytes)", f"whole: {tmp_path / 'epoch_1.pth'}"):
            assert part in str(caught.value)
        assert caught.value.__suppress_context__


def test_file_of_another_kind(tmp_path):
    file = tmp_path / "page.pth"
    file.write_text("<html>Not found</html>")
    with pytest.raises(CorruptCheckpointError, match="no PyTorch checkpoint") as caught:
        load_checkpoint_file(file)
    assert "earlier" not in str(caught.value)
    torch.save(torch.ones(1), file)
    with pytest.raises(TypeError, match="holds a Tensor"):
        load_checkpoint_file(file)


def test_absent_file(tmp_path):
    for load in (load_checkpoint_file, CheckpointLoader.load_checkpoint):
        with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
            load(str(tmp_path / "absent.pth"))


def test_other_trouble_is_not_blamed_on_the_file(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(RuntimeError, match="device") as caught:
        load_checkpoint_file(tmp_path / "a.pth", map_location="no such device")
    assert type(caught.value) is RuntimeError


def test_downloads_are_loaded_safely(tmp_path, unsafe_file, monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, file, **kwargs: shutil.copy(unsafe_file, file))
    with pytest.raises(UnsafeCheckpointError):
        mmengine_checkpoint.load_from_http("https://example.org/old.pth", model_dir=str(tmp_path / "a"))
    inner = tmp_path / "legacy.pth"
    torch.save({"w": torch.ones(1)}, inner, _use_new_zipfile_serialization=False)
    archive = shutil.make_archive(str(tmp_path / "zipped"), "zip", tmp_path, "legacy.pth")
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, file, **kwargs: shutil.copy(archive, file))
    assert (
        mmengine_checkpoint.load_from_http("https://example.org/net-1.pth?a=b", model_dir=str(tmp_path / "a"))["w"] == 1
    )


# Saving -----------------------------------------------------------------------------------------------------------


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
    assert caught.type is KeyboardInterrupt or str(file) in str(caught.value)


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


def test_find_latest_checkpoint(tmp_path, monkeypatch):
    messages = []
    monkeypatch.setattr("mmengine.logging.print_log", lambda message, **kwargs: messages.append(message))
    folder, note, find = str(tmp_path), tmp_path / "last_checkpoint", mmengine_checkpoint.find_latest_checkpoint
    assert find(folder) is None
    note.write_text("")
    assert find(folder) is None
    assert "is empty" in messages[-1]
    for number, name in enumerate(["epoch_1.pth", "epoch_2.pth", "epoch_10.pth"]):
        torch.save({}, tmp_path / name)
        os.utime(tmp_path / name, (number, number))
    os.truncate(tmp_path / "epoch_10.pth", 50)
    newest = str(tmp_path / "epoch_2.pth")
    assert find(folder) == newest == newest_whole_checkpoint(folder)
    note.write_text(str(tmp_path / "epoch_10.pth"))
    assert find(folder) == newest
    assert "not whole" in messages[-1]
    assert newest in messages[-1]
    note.write_text("/another/machine/epoch_1.pth")  # the folder was moved
    assert find(folder) == str(tmp_path / "epoch_1.pth")
    count = len(messages)
    note.write_text(newest)
    assert find(folder) == newest
    note.write_text("s3://bucket/epoch_3.pth")
    assert find(folder) == "s3://bucket/epoch_3.pth"
    assert len(messages) == count


# Installation -----------------------------------------------------------------------------------------------------


def test_install_twice_is_harmless():
    before = [MessageHub.state_dict, LocalBackend.put, Runner.register_hooks, CheckpointHook._save_best_checkpoint]
    install()
    after = [MessageHub.state_dict, LocalBackend.put, Runner.register_hooks, CheckpointHook._save_best_checkpoint]
    assert before == after
    from mmengine.config.utils import MODULE2PACKAGE

    assert MODULE2PACKAGE["mmkdprune"] == "mmkdprune"
    with contextlib.suppress(AttributeError):  # a hook that never trained has no storage yet: as in stock MMEngine
        CheckpointHook(save_best="acc")._save_best_checkpoint(MagicMock(), {"acc": 1.0})
