import shutil

import fake_datasets
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from testing_helpers import REPOSITORY

from mmkdprune.datasets import BatchedDataset, ClassPairBatchSampler, TinyImageNet
from mmkdprune.datasets.batched import use_batched_loaders


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "tiny-imagenet-200"
    fake_datasets.tiny_imagenet(folder)
    return folder


def test_official_folder(root):
    train = TinyImageNet(data_root=str(root))
    assert train.metainfo["classes"] == ("n03999999", "lemon")  # in the order of the identifiers
    assert train.get_gt_labels().tolist() == [0, 0, 0, 1, 1, 1]
    assert train.get_data_info(3)["img_path"] == f"{root}/train/n04000000/images/n04000000_0.JPEG"
    val = TinyImageNet(data_root=str(root), split="val")
    assert val.get_gt_labels().tolist() == [1, 0]
    assert val.get_data_info(1)["img_path"] == f"{root}/val/images/val_1.JPEG"


@pytest.mark.parametrize("inner", ["", "images"])
def test_validation_images_in_class_folders(inner, root, tmp_path):
    copy = shutil.copytree(root, tmp_path / "copy")
    for number, wnid in enumerate(("n04000000", "n03999999")):
        (copy / "val" / wnid / inner).mkdir(parents=True)
        (copy / "val" / "images" / f"val_{number}.JPEG").rename(copy / "val" / wnid / inner / f"val_{number}.JPEG")
    (copy / "val" / "val_annotations.txt").unlink()
    val = TinyImageNet(data_root=str(copy), split="val")
    assert [val.get_data_info(index)["gt_label"] for index in range(2)] == [0, 1]
    assert val.get_data_info(0)["img_path"].endswith("val_1.JPEG")


@pytest.mark.parametrize("size", [64, 32])
def test_batches_equal_the_ordinary_loader(size, root):
    """The config's data set behind ``BatchedDataset``, as ``--speed`` puts it there."""
    name = "tiny-imagenet" if size == 64 else "tiny-imagenet-32px"
    config = Config.fromfile(REPOSITORY / f"configs/_base_/datasets/{name}_bs64.py")
    for part in ("train", "val"):
        config[f"{part}_dataloader"].dataset.data_root = str(root)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        ordinary = DATASETS.build(config.val_dataloader.dataset)
        lines = use_batched_loaders(config)
        assert lines[:2] == ["train_dataloader: batched", "val_dataloader: batched"]
        train, val = (DATASETS.build(config[f"{part}_dataloader"].dataset) for part in ("train", "val"))
    assert isinstance(train, BatchedDataset)
    assert train.images.shape == (6, 3, size, size)
    assert train[4]["inputs"].shape == (3, size, size)
    for index in range(2):
        assert torch.equal(val[index]["inputs"], ordinary[index]["inputs"])
        assert val[index]["data_samples"].gt_label == ordinary[index]["data_samples"].gt_label
    sampler = type("Sampler", (), {"dataset": train, "epoch": 0, "seed": 0})()
    assert len(list(ClassPairBatchSampler(sampler, batch_size=4, samples_per_class=2))) == 1


@pytest.mark.parametrize(
    ("removed", "split"),
    [("wnids.txt", "train"), ("train", "train"), ("val/val_annotations.txt", "val"), ("val", "val")],
)
def test_absent_files(removed, split, root, tmp_path):
    copy = shutil.copytree(root, tmp_path / "copy")
    (shutil.rmtree if (copy / removed).is_dir() else type(copy).unlink)(copy / removed)
    message = f"Tiny-ImageNet: there is no {copy / removed}. Download tiny-imagenet-200.zip .*; or set data_root"
    with pytest.raises(FileNotFoundError, match=message) as raised:
        TinyImageNet(data_root=str(copy), split=split)
    assert raised.value.errno is None  # says all itself


def test_bad_input(root, tmp_path):
    with pytest.raises(ValueError, match="split must be one of train, val, got 'test'"):
        TinyImageNet(data_root=str(root), split="test")
    copy = shutil.copytree(root, tmp_path / "copy")
    (copy / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn09999999\t0\t0\t1\t1\n")
    with pytest.raises(ValueError, match=r"class n09999999, which wnids\.txt does not name"):
        TinyImageNet(data_root=str(copy), split="val")
    (copy / "val" / "val_annotations.txt").write_text("<html>\n")
    with pytest.raises(ValueError, match=r"val_annotations\.txt is damaged"):
        TinyImageNet(data_root=str(copy), split="val")
    for path in (copy / "train").rglob("*.JPEG"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no .*/train/\*/images/\*\.JPEG"):
        TinyImageNet(data_root=str(copy))
