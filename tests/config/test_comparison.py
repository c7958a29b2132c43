import copy

import pytest
from mmengine.config import Config

from mmkdprune.config.comparison import comparable_settings, first_difference, settings_hash

CONFIG = {
    "model": {
        "type": "A",
        "teacher": {"config": "t.py", "checkpoint": "t.pth", "depth": 8},
        "pretrained": {"config": "p.py", "checkpoint": "p.pth"},
        "data_preprocessor": {"mean": [0.0]},
        "head": {"type": "B", "dtype": "x"},
    },
    "optim_wrapper": {"type": "AmpOptimWrapper", "dtype": "float16", "optimizer": {"type": "SGD", "fused": True}},
    "custom_hooks": [{"type": "mmkdprune.CheckClassesHook"}, {"type": "EMAHook", "momentum": 0.1}],
    "train_dataloader": {
        "batch_size": 4,
        "num_workers": 2,
        "collate_fn": {"type": "default_collate"},
        "dataset": {"type": "C", "data_root": "here", "parts": [{"data_root": "there", "indices": 3}]},
    },
    "randomness": {"seed": 1},
    "val_dataloader": {"batch_size": 4},
    "work_dir": "x",
}


def config(**changes):
    result = Config(copy.deepcopy(CONFIG))
    result.merge_from_dict(changes)
    return result


def test_what_is_compared():
    assert comparable_settings(config()) == {
        "model": {
            "type": "A",
            "teacher": {"config": "t.py", "depth": 8},
            "pretrained": {"config": "p.py"},
            "head": {"type": "B", "dtype": "x"},
        },
        "optim_wrapper": {"optimizer": {"type": "SGD"}},
        "custom_hooks": [{"type": "EMAHook", "momentum": 0.1}],
        "train_dataloader": {"batch_size": 4, "dataset": {"type": "C", "parts": [{"indices": 3}]}},
        "randomness": {"seed": 1},
    }
    assert "randomness" not in comparable_settings(config(), leave_out=("randomness",))


@pytest.mark.parametrize(
    "changes",
    [
        {"train_dataloader.dataset.data_root": "elsewhere"},
        {"train_dataloader.num_workers": 0},
        {"model.teacher.checkpoint": "other.pth"},
        {"optim_wrapper.optimizer.fused": None},
        {"custom_hooks": [{"type": "EMAHook", "momentum": 0.1}, {"type": "mmkdprune.CheckBatchSizeHook"}]},
        {"val_dataloader.batch_size": 1},
    ],
)
def test_the_same_run(changes):
    assert first_difference(config(), config(**changes)) == ""
    assert settings_hash(config()) == settings_hash(config(**changes))


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"randomness.seed": 2}, "randomness.seed: 1 there, 2 here"),
        ({"model.head.dtype": "y"}, "model.head.dtype: 'x' there, 'y' here"),
        ({"train_dataloader.dataset.parts": []}, "train_dataloader.dataset.parts: [{'indices': 3}] there, [] here"),
        ({"custom_hooks": []}, "custom_hooks: [{'type': 'EMAHook', 'momentum': 0.1}] there, None here"),
        ({"train_cfg": {"max_epochs": 3}}, "train_cfg: None there, {'max_epochs': 3} here"),
    ],
)
def test_another_run(changes, difference):
    assert first_difference(config(), config(**changes)) == difference
    assert settings_hash(config()) != settings_hash(config(**changes))


def test_a_field_without_content_is_as_good_as_none():
    without = config()
    without.pop("custom_hooks")
    assert first_difference(without, config(custom_hooks=[])) == ""


def test_what_speed_was_asked_for_is_hashed():
    assert len({settings_hash(one) for one in (config(), config(speed={"amp": "auto"}), config(speed={}))}) == 3
