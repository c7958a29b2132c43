import hashlib
import shutil
import zipfile

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import nn

from mmkdprune.checkpoint import file_check
from mmkdprune.checkpoint.file_check import NO_FILE_CHECK_VARIABLE, find_damage
from mmkdprune.checkpoint.loading import CorruptCheckpointError, load_checkpoint_file, load_safely
from mmkdprune.checkpoint.search import is_undamaged, is_whole, newest_whole_checkpoint
from mmkdprune.commands.work_dir import find_resumable
from mmkdprune.pruning import load_plan


@pytest.fixture
def state():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16)).state_dict()


@pytest.fixture
def file(tmp_path, state):
    torch.save({"state_dict": state, "meta": {"note": "x" * 500}}, tmp_path / "epoch_2.pth")
    return tmp_path / "epoch_2.pth"


def damage(file, kind, place=0.5):
    """Change a file as a disk or a network does."""
    content = bytearray(file.read_bytes())
    middle = int(len(content) * place)
    if kind == "bit":
        content[middle] ^= 0x40
    elif kind == "page":
        content[middle : middle + 512] = bytes(512)
    else:
        del content[middle:]
    file.write_bytes(content)


@pytest.mark.parametrize("kind", ["bit", "page", "truncated"])
def test_damage_is_refused_wherever_files_are_loaded(file, state, kind):
    assert load_checkpoint_file(file)["state_dict"].keys() == state.keys()
    damage(file, kind)
    loads = [load_checkpoint_file, load_safely, load_plan, CheckpointLoader.load_checkpoint]
    for load in loads:
        with pytest.raises(CorruptCheckpointError, match=r"epoch_2\.pth \([\d,]+ bytes\) is .*damaged"):
            load(str(file))
    network = nn.Sequential(nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16))
    with pytest.raises(CorruptCheckpointError):
        mmengine_checkpoint.load_checkpoint(network, str(file))
    part = BaseModule(init_cfg={"type": "Pretrained", "checkpoint": str(file)})
    with pytest.raises(CorruptCheckpointError):
        part.init_weights()


def test_no_damage_loads_as_other_weights(file, state):
    """A bit flipped anywhere is found, or is in a place that means nothing."""
    content, other = file.read_bytes(), file.with_name("other.pth")
    refused = 0
    for place in range(0, len(content), 61):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        other.write_bytes(flipped)
        try:
            loaded = load_safely(other)["state_dict"]
        except CorruptCheckpointError:
            refused += 1
            continue
        assert all(torch.equal(loaded[key], value) for key, value in state.items())
    assert refused > 0.5 * len(range(0, len(content), 61))


def test_the_check_can_be_turned_off_and_says_so(file, monkeypatch):
    messages = []
    monkeypatch.setattr("mmengine.logging.print_log", lambda message, **kwargs: messages.append(message))
    monkeypatch.setattr(file_check, "_told", set())
    damage(file, "bit")
    assert is_whole(file)
    assert not is_undamaged(file)
    with pytest.raises(CorruptCheckpointError, match="--no-file-check"):
        load_safely(file)
    assert not messages
    monkeypatch.setenv(NO_FILE_CHECK_VARIABLE, "1")
    for _ in range(2):
        assert load_safely(file)["state_dict"]
    assert is_undamaged(file)
    assert [message for message in messages if "not checked for damage" in message] == messages[:1]


def test_a_file_is_checked_once_and_again_after_a_change(file, monkeypatch):
    calls = []
    original = file_check._damaged_member
    monkeypatch.setattr(file_check, "_damaged_member", lambda path: calls.append(path) or original(path))
    for _ in range(3):
        load_safely(file)
    assert len(calls) == 1
    damage(file, "bit")
    assert find_damage(file)
    assert len(calls) == 2


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_compressed_archives(tmp_path, file, place):
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in archive.namelist():
            target.writestr(name, archive.read(name))
    assert find_damage(packed) is None
    damage(packed, "page", place)
    assert find_damage(packed)


def test_files_without_checksums(tmp_path, state, monkeypatch):
    """Of the format before PyTorch 1.6 only the hash in a published file's name tells of damage."""
    messages = []
    monkeypatch.setattr("mmengine.logging.print_log", lambda message, **kwargs: messages.append(message))
    old = tmp_path / "old.pth"
    torch.save(state, old, _use_new_zipfile_serialization=False)
    named = tmp_path / f"resnet-{hashlib.sha256(old.read_bytes()).hexdigest()[:8]}.pth"
    shutil.copy(old, named)
    assert load_safely(named).keys() == load_safely(old).keys()
    assert [message for message in messages if "no checksums" in message] == [messages[0]]
    damage(named, "bit")
    load_safely(named)
    assert "may be damaged" in messages[-1]
    assert str(named) in messages[-1]
    damage(old, "truncated")
    with pytest.raises(CorruptCheckpointError):
        load_safely(old)


def test_downloads_say_how_to_get_another(tmp_path, file, monkeypatch):
    damage(file, "bit")
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, target, **kwargs: shutil.copy(file, target))
    with pytest.raises(CorruptCheckpointError, match=r"Remove it.*https://example.org/net.pth"):
        mmengine_checkpoint.load_from_http("https://example.org/net.pth", model_dir=str(tmp_path / "hub"))


def test_resuming_passes_over_a_damaged_checkpoint_and_says_so(file):
    for name in ("epoch_1.pth", "epoch_3.pth"):
        shutil.copy(file, file.with_name(name))
    note = file.with_name("last_checkpoint")
    note.write_text(str(file.with_name("epoch_3.pth")))
    said = []
    assert find_resumable(file.parent, tell=said.append) == file.with_name("epoch_3.pth")
    damage(file.with_name("epoch_3.pth"), "bit")
    assert find_resumable(file.parent, tell=said.append) == file
    assert said == [f"{file.with_name('epoch_3.pth')} is damaged or not complete: going on from {file}"]
    assert mmengine_checkpoint.find_latest_checkpoint(str(file.parent)) == str(file)
    with pytest.raises(CorruptCheckpointError, match=r"An earlier checkpoint in that folder is whole: .*epoch_2"):
        load_safely(file.with_name("epoch_3.pth"))
    for name in ("epoch_1.pth", "epoch_2.pth"):
        damage(file.with_name(name), "page")
    assert newest_whole_checkpoint(file.parent) is None
