import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from testing_helpers import REPOSITORY
from training_helpers import assert_same, go_back_to, load, log, run

from mmkdprune.config.dataloaders import complete_batched_loader
from mmkdprune.datasets.batched import use_batched_loaders

PLAIN = "mixskd/plain_resnet20_1xb64-20e_digits-16px"
COLLATE = {"type": "mmkdprune.batched_collate"}


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        yield


def test_small_sets_are_batched_and_others_are_not():
    config = Config.fromfile(REPOSITORY / "configs" / f"{PLAIN}.py")
    inner = dict(config.train_dataloader.dataset)
    assert use_batched_loaders(config) == [f"{name}_dataloader: batched" for name in ("train", "val", "test")]
    assert config.train_dataloader.dataset.type == "mmkdprune.BatchedDataset"
    assert config.train_dataloader.dataset.dataset == inner
    assert config.train_dataloader.collate_fn == COLLATE
    assert config.train_dataloader.sampler.type == "DefaultSampler"
    before = config.pretty_text
    assert all("batched already" in line for line in use_batched_loaders(config))
    assert config.pretty_text == before

    imagenet = Config.fromfile(REPOSITORY / "configs/mixskd/plain_resnet50_8xb16-305e_in1k.py")
    before = imagenet.pretty_text
    assert all("ImageNet is not known to be small" in line for line in use_batched_loaders(imagenet))
    assert imagenet.pretty_text == before

    augmented = Config.fromfile(REPOSITORY / "configs" / f"{PLAIN}.py")
    augmented.train_dataloader.dataset.pipeline.insert(0, {"type": "ColorJitter"})
    lines = use_batched_loaders(augmented)
    assert "ColorJitter has no counterpart" in lines[0]
    assert lines[1] == "val_dataloader: batched"

    repeated = Config.fromfile(REPOSITORY / "configs" / f"{PLAIN}.py")
    repeated.train_dataloader.dataset = {"type": "RepeatDataset", "times": 2, "dataset": inner}
    unknown = Config.fromfile(REPOSITORY / "configs" / f"{PLAIN}.py")
    unknown.train_dataloader.dataset.pipeline.insert(0, {"type": "mine.Unknown"})
    assert (
        use_batched_loaders(repeated)[0] == "train_dataloader: as it was (RepeatDataset may hold images several times)"
    )
    assert use_batched_loaders(unknown)[0].startswith("train_dataloader: as it was (")

    subset = Config.fromfile(REPOSITORY / "configs/hsakd/plain_resnet20_1xb64-240e_cifar100-25pct.py")
    assert use_batched_loaders(subset)[0] == "train_dataloader: batched"


def test_a_batched_loader_gets_what_it_needs():
    loader = {"dataset": {"type": "mmkdprune.BatchedDataset"}, "prefetch_factor": 2}
    assert complete_batched_loader(loader)
    assert loader == {
        "dataset": {"type": "mmkdprune.BatchedDataset"},
        "num_workers": 0,
        "persistent_workers": False,
        "pin_memory": False,
        "collate_fn": COLLATE,
    }
    assert not complete_batched_loader({"dataset": {"type": "CIFAR10"}})
    with pytest.raises(ValueError, match=r"val_dataloader.num_workers is 2, .* set val_dataloader.num_workers=0"):
        complete_batched_loader({"dataset": {"type": "mmkdprune.BatchedDataset"}, "num_workers": 2}, "val_dataloader")


def batched_run(work_dir, epochs=3, pipeline=None, **options):
    """A short run on the batched path."""
    inner = Config.fromfile(REPOSITORY / "configs" / f"{PLAIN}.py")
    settings = {"collate_fn": COLLATE, "num_workers": 0}
    for field, number in (("train_dataloader", 96), ("val_dataloader", 64)):
        dataset = {"type": "mmkdprune.BatchedDataset", "dataset": dict(inner[field].dataset, indices=number)}
        if pipeline:
            dataset["dataset"]["pipeline"] = pipeline
        options[field] = dict(settings, dataset=dict(dataset, _delete_=True))
    return run(work_dir, PLAIN, epochs, **options)


@pytest.mark.usefixtures("one_thread")
def test_interrupted_run_resumes_bit_by_bit(tmp_path):
    runner = batched_run(tmp_path / "whole")
    assert type(runner.train_dataloader.dataset).__name__ == "BatchedDataset"
    expected = load(tmp_path / "whole", 3)
    batched_run(tmp_path / "parts")
    go_back_to(tmp_path / "parts", 2)
    batched_run(tmp_path / "parts", resume=True)
    resumed = load(tmp_path / "parts", 3)
    for name in ("state_dict", "optimizer", "mmkdprune"):
        assert_same(expected[name], resumed[name])


@pytest.mark.usefixtures("one_thread")
def test_without_augmentation_a_run_is_that_on_the_ordinary_loader(tmp_path):
    packing = [{"type": "PackInputs"}]
    run(tmp_path / "ordinary", PLAIN, 2, **{"train_dataloader.dataset.pipeline": packing})
    batched_run(tmp_path / "batched", 2, pipeline=packing)
    keys = ("loss", "accuracy/top1", "epoch", "step", "lr")
    first, second = (
        [{key: row[key] for key in keys if key in row} for row in log(tmp_path / name)]
        for name in ("ordinary", "batched")
    )
    assert first == second
    assert "accuracy/top1" in first[-1]
    assert_same(load(tmp_path / "ordinary", 2)["state_dict"], load(tmp_path / "batched", 2)["state_dict"])


@pytest.mark.slow
def test_train_tool_completes_the_loader(tmp_path):
    config = tmp_path / "batched.py"
    config.write_text(f"""
_base_ = '{REPOSITORY}/configs/{PLAIN}.py'
train_dataloader = dict(dataset=dict(
    _delete_=True, type='mmkdprune.BatchedDataset', dataset={{{{_base_.train_dataloader.dataset}}}}))
train_cfg = dict(max_epochs=1)
""")
    command = [sys.executable, "tools/train.py", config, "--work-dir", tmp_path / "run"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    checkpoint = torch.load(tmp_path / "run" / "epoch_1.pth", weights_only=True)
    assert "batched_collate" in checkpoint["meta"]["cfg"]
    command += ["--overwrite", "--cfg-options", "train_dataloader.num_workers=2"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 1
    assert "set train_dataloader.num_workers=0" in result.stderr
