import fake_datasets
import numpy as np
import pytest
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from testing_helpers import REPOSITORY

import mmkdprune.datasets.stl10 as stl10_module
from mmkdprune.commands.evaluation.data import build_evaluation_loader, known_data, read_data_config
from mmkdprune.errors import UsageError

IN_PROCESS = {"num_workers": 0, "persistent_workers": False}


def test_names_of_the_shipped_configs():
    assert list(known_data("linear")) == ["stl10-32px", "tiny-imagenet-32px", "cifar100", "in1k", "digits-16px"]
    assert set(known_data("few-shot")) == {"omniglot", "digits", "cifar-fs", "mini-imagenet", "tiny-imagenet"}
    for kind in ("linear", "few-shot"):
        for name in known_data(kind):
            read_data_config(name, kind)


def test_training_images_come_in_order_without_augmentation():
    config = read_data_config("digits-16px", "linear")
    text = config.pretty_text
    loader = build_evaluation_loader(config, "train_dataloader")
    assert [type(step).__name__ for step in loader.dataset.pipeline.transforms] == ["PackInputs"]
    first, again = (next(iter(loader))["inputs"] for _ in range(2))
    assert np.array_equal(first, again)
    assert sum(len(batch["data_samples"]) for batch in loader) == len(loader.dataset) == 1433
    assert config.pretty_text == text


def test_wrapped_and_class_balanced_training_sets():
    config = read_data_config(
        "digits-16px",
        "linear",
        {"train_dataloader.batch_sampler": {"type": "mmkdprune.ClassPairBatchSampler", "samples_per_class": 8}},
    )
    inner = dict(config.train_dataloader.dataset)
    subset = {"type": "mmkdprune.ClassSubset", "num_classes": 4, "images_per_class": 9, "dataset": inner}
    config.train_dataloader.dataset = {"type": "mmkdprune.BatchedDataset", "dataset": subset}
    loader = build_evaluation_loader(config, "train_dataloader")
    assert not loader.dataset.transforms
    labels = [int(sample.gt_label) for batch in loader for sample in batch["data_samples"]]
    assert np.bincount(labels).tolist() == [9] * 4


def test_small_images_of_the_papers_transfer(tmp_path, monkeypatch):
    """STL-10 and Tiny-ImageNet at 32 px, as their official archives unpack."""
    monkeypatch.setattr(stl10_module, "IMAGES", {"train": 4, "test": 3, "unlabeled": 2})
    fake_datasets.stl10(tmp_path / "stl10", stl10_module.IMAGES)
    fake_datasets.tiny_imagenet(tmp_path / "tiny")
    for name, folder in (("stl10-32px", "stl10"), ("tiny-imagenet-32px", "tiny")):
        fields = ("train_dataloader", "val_dataloader")
        options = {f"{field}.dataset.data_root": str(tmp_path / folder) for field in fields}
        options |= {f"{field}.{key}": value for field in fields for key, value in IN_PROCESS.items()}
        config = read_data_config(name, "linear", options)
        init_default_scope("mmpretrain")
        augmented = Runner.build_dataloader({**config.train_dataloader, "collate_fn": {"type": "default_collate"}})
        for loader in (augmented, *(build_evaluation_loader(config, field) for field in fields)):
            batch = next(iter(loader))
            assert batch["inputs"].shape[1:] == (3, 32, 32)
            assert all(sample.gt_label.numel() == 1 for sample in batch["data_samples"])


def test_bad_input(tmp_path):
    with pytest.raises(UsageError, match="neither a config nor one of the known data sets: stl10-32px, "):
        read_data_config("stl11", "linear")
    with pytest.raises(UsageError, match="the config has no train_dataloader and no val_dataloader"):
        read_data_config(str(REPOSITORY / "configs/_base_/schedules/linear_100e.py"), "linear")
    config = read_data_config("in1k", "linear", {"val_dataloader.dataset.data_root": str(tmp_path / "absent")})
    with pytest.raises(UsageError, match=r"val_dataloader: the data of ImageNet .* are not there"):
        build_evaluation_loader(config, "val_dataloader")
