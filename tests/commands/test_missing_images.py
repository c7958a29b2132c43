"""Images that a data set lists but that are not there."""

import json

import pytest
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset

from mmkdprune.commands import missing_images
from mmkdprune.commands.missing_images import check_images
from mmkdprune.errors import UsageError

WRAPPERS = [lambda one: one, lambda one: RepeatDataset(one, 2), lambda one: ConcatDataset([one] * 2)]


def listed(folder, number=6, present=6, prefix="images"):
    (folder / "images").mkdir(exist_ok=True)
    for index in range(present):
        (folder / "images" / f"{index}.png").touch()
    annotations = folder / "list.json"
    entries = [{"img_path": f"{index}.png"} for index in range(number)]
    annotations.write_text(json.dumps({"metainfo": {}, "data_list": entries}))
    return BaseDataset("list.json", data_root=str(folder), data_prefix={"img_path": prefix})


@pytest.mark.parametrize(
    "wrap", [lambda one: one, lambda one: RepeatDataset(one, 2), lambda one: ConcatDataset([one] * 2)]
)
def test_all_there(tmp_path, wrap):
    check_images(wrap(listed(tmp_path)), "train_dataloader")


@pytest.mark.parametrize(
    "wrap", [lambda one: one, lambda one: RepeatDataset(one, 2), lambda one: ConcatDataset([one] * 2)]
)
def test_missing_ones_are_named(tmp_path, wrap):
    with pytest.raises(UsageError) as error:
        check_images(wrap(listed(tmp_path, present=2)), "train_dataloader")
    text = str(error.value)
    assert "train_dataloader: 4 files that BaseDataset lists are not there (of its 6 entries)" in text
    assert f"{tmp_path}/images/2.png, {tmp_path}/images/3.png" in text
    assert "ann_file=" in text
    assert "list.json" in text
    assert text.endswith("or take the entries out of the list")


def test_whole_folder_missing_and_files_elsewhere(tmp_path):
    with pytest.raises(UsageError, match="6 files"):
        check_images(listed(tmp_path, prefix="nowhere"), "val_dataloader")
    remote = listed(tmp_path)
    remote.get_data_info = lambda index: {"img_path": f"s3://bucket/{index}.png"}
    check_images(remote, "val_dataloader")
    check_images([1, 2, 3], "val_dataloader")  # no data set of MMEngine


def test_large_sets_are_looked_at_in_part(tmp_path, monkeypatch):
    monkeypatch.setattr(missing_images, "_MOST_ENTRIES", 3)
    with pytest.raises(UsageError, match=r"2 files .* \(of 3 of its 6 entries\): .*2.png, .*4.png\."):
        check_images(listed(tmp_path, present=2), "train_dataloader")
