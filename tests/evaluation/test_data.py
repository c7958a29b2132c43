import numpy as np
import pytest
from testing_helpers import REPOSITORY

from mmkdprune.evaluation.data import build_evaluation_loader, known_data, read_data_config
from mmkdprune.utils.command_line import UsageError


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


def test_bad_input(tmp_path):
    with pytest.raises(UsageError, match="neither a config nor one of the known data sets: stl10-32px, "):
        read_data_config("stl11", "linear")
    with pytest.raises(UsageError, match="the config has no train_dataloader and no val_dataloader"):
        read_data_config(str(REPOSITORY / "configs/_base_/schedules/linear_100e.py"), "linear")
    config = read_data_config("stl10-32px", "linear", {"val_dataloader.dataset.data_root": str(tmp_path / "absent")})
    with pytest.raises(UsageError, match=r"val_dataloader: the data of CustomDataset .* are not there"):
        build_evaluation_loader(config, "val_dataloader")
