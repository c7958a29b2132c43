import copy
import pickle

import fake_datasets
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from testing_helpers import REPOSITORY

from mmkdprune.datasets import STL10, StratifiedSubset
from mmkdprune.datasets import stl10 as stl10_module
from mmkdprune.datasets.batched import use_batched_loaders


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(stl10_module, "IMAGES", {"train": 12, "test": 3, "unlabeled": 5})
    fake_datasets.stl10(tmp_path, stl10_module.IMAGES)
    return tmp_path


def test_images_and_labels(root):
    data = STL10(data_root=str(root))
    assert data.get_gt_labels().tolist() == [*range(10), 0, 1]
    assert data[11]["gt_label"] == 1
    image = data[3]["img"]
    assert (image.shape, image.dtype, image.flags.c_contiguous, image.flags.writeable) == (
        (96, 96, 3),
        np.uint8,
        True,
        True,
    )
    row, column = np.mgrid[:96, :96]
    assert (image == np.stack([row + 3, column, np.full_like(row, 7)], axis=-1)).all()
    assert len(STL10(data_root=str(root / "stl10_binary"), split="test")) == 3
    assert len(data.metainfo["classes"]) == 10


def test_images_without_labels(root):
    data = STL10(data_root=str(root), split="train+unlabeled")
    assert len(data) == 17
    assert set(data[0]) == set(data[16]) == {"img", "sample_idx"}
    assert (data[16]["img"] == STL10(data_root=str(root), split="unlabeled")[4]["img"]).all()
    with pytest.raises(ValueError, match=r"images of split 'train\+unlabeled' have no labels"):
        data.get_gt_labels()


def test_parts(root):
    assert [info["img"][0, 0, 0] for info in STL10(data_root=str(root), fold=1)] == [1, 3]
    assert [info["img"][0, 0, 0] for info in STL10(data_root=str(root), indices=[5, 2])] == [5, 2]
    subset = StratifiedSubset({"type": "mmkdprune.STL10", "data_root": str(root), "indices": [0, 1, 10, 11]}, ratio=0.5)
    assert sorted(subset.get_gt_labels()) == [0, 1]


def test_worker_processes_get_their_own(root):
    data = STL10(data_root=str(root))
    for other in (copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        assert (other[2]["img"] == data[2]["img"]).all()


def test_batches_equal_the_ordinary_loader(root):
    config = Config.fromfile(REPOSITORY / "configs/_base_/datasets/stl10_bs64.py")
    config.train_dataloader.dataset.data_root = config.val_dataloader.dataset.data_root = str(root)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        ordinary = DATASETS.build(config.val_dataloader.dataset)
        assert use_batched_loaders(config)[:2] == ["train_dataloader: batched", "val_dataloader: batched"]
        train, val = (DATASETS.build(config[f"{part}_dataloader"].dataset) for part in ("train", "val"))
    assert train[0]["inputs"].shape == (3, 96, 96)
    assert all(torch.equal(val[index]["inputs"], ordinary[index]["inputs"]) for index in range(3))


def test_bad_input(root):
    with pytest.raises(ValueError, match="split must be one of train, test, unlabeled, train\\+unlabeled, got 'val'"):
        STL10(data_root=str(root), split="val")
    for options in ({"fold": 10}, {"fold": 0, "split": "test"}):
        with pytest.raises(ValueError, match="fold is one of 0 to 9 of split 'train'"):
            STL10(data_root=str(root), **options)
    with pytest.raises(ValueError, match=r"fold_indices\.txt names no images of fold 9"):
        STL10(data_root=str(root), fold=9)
    folder = root / "stl10_binary"
    (folder / "test_y.bin").write_bytes(b"\1\2\13")
    with pytest.raises(ValueError, match=r"test_y\.bin does not hold 3 labels from 1 to 10: unpack"):
        STL10(data_root=str(root), split="test")
    (folder / "train_X.bin").write_bytes(b"1234")
    with pytest.raises(ValueError, match=r"train_X\.bin has 4 bytes, expected 331,776: unpack the archive again"):
        STL10(data_root=str(root))
    (folder / "train_X.bin").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"STL-10: there is no .*/stl10_binary/train_X\.bin\. Download stl10_bin"
    ):
        STL10(data_root=str(root))
