"""Whole runs of the Digits configs, in this process or in two."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from testing_helpers import REPOSITORY

from mmkdprune.models.algorithms import MixSKD

CONFIGS = REPOSITORY / "configs" / "mixskd"
ALL_ZERO = dict.fromkeys(MixSKD.loss_names, 0.0)


def run(work_dir: Path, method: str = "mixskd", epochs: int = 4, **options) -> Runner:
    """Train on 96 digits."""
    config = Config.fromfile(CONFIGS / f"{method}_resnet20_1xb64-20e_digits-16px.py")
    config.work_dir = str(work_dir)
    config.experiment_name = work_dir.name
    config.train_cfg.max_epochs = epochs
    config.train_dataloader.dataset.indices = 96
    config.train_dataloader.batch_size = 32
    config.val_dataloader.dataset.indices = 64
    config.default_hooks.logger.interval = 1
    config.merge_from_dict(options)
    runner = Runner.from_cfg(config)
    runner.train()
    return runner


def load(work_dir: Path, epoch: int) -> dict:
    return torch.load(work_dir / f"epoch_{epoch}.pth", weights_only=True)


def log(work_dir: Path) -> list[dict]:
    (path,) = sorted(work_dir.glob("*/vis_data/scalars.json"))[-1:]
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same(first, second, path="checkpoint"):
    """Compare nested containers bit for bit."""
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), path
    elif isinstance(first, dict):
        assert list(first) == list(second), path
        for key in first:
            assert_same(first[key], second[key], f"{path}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), path
        for index, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{path}[{index}]")
    else:
        assert first == second, path


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    work_dir = tmp_path_factory.mktemp("straight")
    run(work_dir)
    return work_dir


def test_resumed_run_is_the_same_bit_for_bit(straight, tmp_path):
    run(tmp_path, epochs=4, **{"default_hooks.checkpoint.max_keep_ckpts": -1})
    for epoch in (3, 4):
        (tmp_path / f"epoch_{epoch}.pth").unlink()
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "epoch_2.pth"))
    run(tmp_path, resume=True)
    expected, resumed = load(straight, 4), load(tmp_path, 4)
    for part in ("state_dict", "optimizer", "param_schedulers", "mmkdprune"):
        assert_same(expected[part], resumed[part], part)
    terms = [name for name in log(straight)[-2] if "loss" in name]
    assert set(terms) == {"loss", *MixSKD.loss_names}
    for ours, theirs in zip(log(tmp_path)[-4:], log(straight)[-4:], strict=True):
        assert {name: ours.get(name) for name in terms} == {name: theirs.get(name) for name in terms}
        assert ours.get("accuracy/top1") == theirs.get("accuracy/top1")


def test_checkpoint_holds_the_private_random_streams(straight):
    (state,) = load(straight, 4)["mmkdprune"]["random_state"]
    assert "mixup_random" in json.dumps(list(state["private"]))


def test_all_weights_zero_is_the_plain_twin_bit_for_bit(tmp_path):
    """The same config but for the model's type, the same seed: data order, augmentation and weights agree."""
    run(tmp_path / "plain", method="plain", epochs=2)
    run(tmp_path / "mixskd", epochs=2, **{"model.loss_weights": ALL_ZERO})
    plain, ours = (load(tmp_path / name, 2) for name in ("plain", "mixskd"))
    assert_same(plain["state_dict"], ours["state_dict"])
    assert_same(plain["optimizer"], ours["optimizer"])


def test_gradient_accumulation_and_ema(tmp_path):
    runner = run(
        tmp_path,
        epochs=1,
        **{
            "optim_wrapper.accumulative_counts": 2,
            "custom_hooks": [{"type": "EMAHook", "momentum": 0.1}],
        },
    )
    checkpoint = load(tmp_path, 1)
    assert any(name.startswith("module.branches.") for name in checkpoint["ema_state_dict"])
    assert torch.isfinite(torch.tensor(runner.message_hub.get_scalar("train/loss").data[0])).all()
