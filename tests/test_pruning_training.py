"""Whole pruned runs of the Digits configs."""

import itertools
import math
import os

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from testing_helpers import REPOSITORY

CONFIGS = REPOSITORY / "configs"
COMBINED = "combined/mixskd-ghfp-asrfp_resnet20_1xb64-20e_digits-16px.py"
_numbers = itertools.count()


def run(work_dir, config, epochs=3, options=()):
    """Train on 96 digits."""
    config = Config.fromfile(CONFIGS / config)
    config.work_dir, config.experiment_name = str(work_dir), f"pruned{next(_numbers)}"
    config.train_cfg.max_epochs = epochs
    config.train_dataloader.dataset.indices = 96
    config.train_dataloader.batch_size = 32
    config.val_dataloader.dataset.indices = 64
    config.default_hooks.checkpoint.max_keep_ckpts = -1
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        config.env_cfg.cudnn_benchmark = False
        config.randomness.deterministic = True
    config.merge_from_dict(dict(options))
    runner = Runner.from_cfg(config)
    runner.train()
    return torch.load(work_dir / f"epoch_{epochs}.pth", weights_only=True)


def assert_same(first, second, path="checkpoint"):
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), path
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            assert_same(first[key], second[key], f"{path}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), path
        for index, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{path}[{index}]")
    else:
        assert first == second, path


@pytest.fixture(scope="module")
def combined(tmp_path_factory):
    return run(tmp_path_factory.mktemp("combined"), COMBINED)


def test_the_student_is_pruned_and_nothing_else(combined):
    units = combined["mmkdprune"]["pruning"]["units"]
    assert len(units) == 19
    for name, weight in combined["state_dict"].items():
        if weight.ndim != 4:
            continue
        zero = int((weight == 0).flatten(1).all(1).sum())
        layer = name.removeprefix("backbone.").removesuffix(".weight")
        assert zero == (math.floor(0.4 * len(weight)) if layer in units and name.startswith("backbone.") else 0), name
    assert {"branches", "self_teacher"} <= {name.split(".")[0] for name in combined["state_dict"]}


def test_resumed_run_is_the_same_bit_for_bit(combined, tmp_path):
    run(tmp_path, COMBINED)
    (tmp_path / "epoch_3.pth").unlink()
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "epoch_2.pth"))
    resumed = run(tmp_path, COMBINED, options={"resume": True})
    for part in ("state_dict", "optimizer", "param_schedulers", "mmkdprune"):
        assert_same(combined[part], resumed[part], part)


def test_rate_zero_is_the_distillation_alone_bit_for_bit(tmp_path):
    options = {"custom_hooks.0.pruner.rate": 0.0}
    pruned = run(tmp_path / "pruned", COMBINED, epochs=2, options=options)
    alone = run(tmp_path / "alone", "mixskd/mixskd_resnet20_1xb64-20e_digits-16px.py", epochs=2)
    for part in ("state_dict", "optimizer"):
        assert_same(pruned[part], alone[part], part)
    assert_same(pruned["mmkdprune"]["random_state"], alone["mmkdprune"]["random_state"])
