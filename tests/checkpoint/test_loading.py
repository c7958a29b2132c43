import os
import pickle
import shutil
import subprocess
import sys
from unittest.mock import MagicMock

import pytest
import torch
import toy_run
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import CheckpointLoader, Runner
from mmengine.runner import checkpoint as mmengine_checkpoint

from mmkdprune.checkpoint.loading import (
    UNSAFE_LOAD_VARIABLE,
    CorruptCheckpointError,
    UnsafeCheckpointError,
    load_checkpoint_file,
)
from mmkdprune.checkpoint.search import newest_whole_checkpoint
from mmkdprune.compat.patching import patch
from mmkdprune.install import install

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


@pytest.fixture
def unsafe_file(tmp_path):
    file = tmp_path / "old.pth"
    torch.save({"meta": {}, "state_dict": {"w": torch.ones(2)}, "message_hub": HistoryBuffer([1.0], [1])}, file)
    return file


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


def test_resuming_runs_no_config_text(tmp_path):
    """MMEngine runs ``meta['config']``, as MMCV's checkpoints have it, to count GPUs."""
    toy_run.make_runner(tmp_path, length=1).train()
    file, mark = tmp_path / "epoch_1.pth", tmp_path / "code_was_run"
    checkpoint = load_checkpoint_file(file)
    checkpoint["meta"]["config"] = f"import os\nos.mkdir({str(mark)!r})\ngpu_ids = range(1)\n"
    torch.save(checkpoint, file)
    toy_run.make_runner(tmp_path, length=2, resume=True).train()
    assert (tmp_path / "epoch_2.pth").is_file()
    assert not mark.exists()


def test_storage_services_are_read_safely(tmp_path, unsafe_file, monkeypatch):
    backend = MagicMock()
    backend.get.side_effect = lambda name: unsafe_file.read_bytes()
    monkeypatch.setattr("mmengine.fileio.get_file_backend", lambda *args, **options: backend)
    with pytest.raises(UnsafeCheckpointError):
        CheckpointLoader.load_checkpoint("s3://bucket/old.pth")


def test_published_checkpoint_is_plain(tmp_path):
    hook = {"type": "CheckpointHook", "interval": 1, "published_keys": ["meta", "state_dict"]}
    toy_run.make_runner(tmp_path, length=1, checkpoint=hook).train()
    published = load_checkpoint_file(next(tmp_path.glob("epoch_1-*.pth")))
    assert published.keys() == {"meta", "state_dict"}
    assert torch.is_tensor(published["meta"]["dataset_meta"]["palette"])


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
        load_checkpoint_file(tmp_path / "a.pth", map_location="cuda:99")
    assert type(caught.value) is RuntimeError


def test_trouble_that_older_versions_of_pytorch_blame_on_the_file(tmp_path, monkeypatch):
    def load(*args, **options):
        try:
            raise RuntimeError("no such device")
        except RuntimeError as error:
            raise pickle.UnpicklingError(f"Weights only load failed. {error}") from None

    torch.save({"w": torch.ones(1)}, tmp_path / "a.pth")
    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(RuntimeError, match=r"^no such device$"):
        load_checkpoint_file(tmp_path / "a.pth")


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


def test_find_latest_checkpoint(tmp_path, monkeypatch):
    messages = []
    monkeypatch.setattr("mmengine.logging.print_log", lambda message, **kwargs: messages.append(message))
    folder, note, find = str(tmp_path), tmp_path / "last_checkpoint", mmengine_checkpoint.find_latest_checkpoint
    assert find(folder) is None
    note.write_text("")
    assert find(folder) is None
    assert "is empty" in messages[-1]
    for damage in (b"\xff\xfe epoch", bytes(20)):
        note.write_bytes(damage)
        assert find(folder) is None
        assert "is empty or damaged" in messages[-1]
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


def test_install_twice_is_harmless():
    patched = [MessageHub.state_dict, LocalBackend.put, Runner.register_hooks, CheckpointHook._save_best_checkpoint]
    package = MODULE2PACKAGE["mmkdprune"]
    install()
    again = [MessageHub.state_dict, LocalBackend.put, Runner.register_hooks, CheckpointHook._save_best_checkpoint]
    assert patched == again
    assert MODULE2PACKAGE["mmkdprune"] == package


def test_patch_keeps_static_methods():
    class Owner:
        @staticmethod
        def double(number):
            return 2 * number

    patch(Owner, "double", lambda original: lambda number: original(number) + 1)
    patch(Owner, "double", lambda original: lambda number: 0)
    assert Owner.double(2) == Owner().double(2) == 5


def test_hook_that_never_trained():
    """It has no storage yet; that is MMEngine's error to report."""
    with pytest.raises(AttributeError, match="file_backend"):
        CheckpointHook(save_best="acc", rule="greater")._save_best_checkpoint(MagicMock(), {"acc": 1.0})
