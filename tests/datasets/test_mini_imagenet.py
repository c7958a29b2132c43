import numpy as np
import pytest
from mmengine.registry import DefaultScope
from PIL import Image

from mmkdprune.datasets import MiniImageNet

FILES = {"train": {"n02": 3, "n01": 2}, "test": {"n03": 2}}


def save(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 8, 3), value, np.uint8)).save(path)


@pytest.fixture
def folders(tmp_path):
    for split, classes in FILES.items():
        for name, number in classes.items():
            for index in range(number):
                save(tmp_path / split / name / f"{index}.jpg", 40 * index)
    (tmp_path / "train" / "notes.txt").write_text("no class")
    return tmp_path


@pytest.fixture
def lists(tmp_path):
    for split, classes in FILES.items():
        rows = ["filename,label"]
        for name, number in classes.items():
            for index in range(number):
                save(tmp_path / "images" / f"{name}{index}.jpg", 40 * index)
                rows.append(f"{name}{index}.jpg,{name}")
        (tmp_path / f"{split}.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


@pytest.mark.parametrize("layout", ["folders", "lists"])
def test_both_layouts(layout, request):
    root = request.getfixturevalue(layout)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        dataset = MiniImageNet(root, "train", pipeline=[{"type": "LoadImageFromFile"}])
    assert dataset.metainfo["classes"] == ("n01", "n02")
    assert np.bincount(dataset.get_gt_labels()).tolist() == [2, 3]
    assert dataset[0]["img"].shape == (6, 8, 3)
    assert MiniImageNet(root, "test").metainfo["classes"] == ("n03",)
    with pytest.raises(FileNotFoundError, match=r"there is neither .*val\.csv \(with .*images\) nor a folder .*val"):
        MiniImageNet(root, "val")


def test_bad_input(lists):
    with pytest.raises(ValueError, match="split must be one of .* got 'all'"):
        MiniImageNet(lists, "all")
    (lists / "images" / "n030.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"test\.csv lists n030\.jpg, but there is no"):
        MiniImageNet(lists, "test")
    (lists / "val.csv").write_text("name,class\n")
    with pytest.raises(ValueError, match="must have columns filename and label, found"):
        MiniImageNet(lists, "val")
    (lists / "val.csv").write_text("filename,label\n")
    with pytest.raises(ValueError, match="split 'val' in .* has no image"):
        MiniImageNet(lists, "val")
