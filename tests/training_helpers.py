"""Short runs of the Digits configs, for tests of whole runs."""

import json
import os
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from testing_helpers import REPOSITORY


def run(work_dir: Path, config: str = "mixskd/mixskd_resnet20_1xb64-20e_digits-16px", epochs: int = 4, **options):
    """Train a config on 96 digits and return the runner."""
    config = Config.fromfile(REPOSITORY / "configs" / f"{config}.py")
    config.work_dir = str(work_dir)
    config.experiment_name = work_dir.name
    config.train_cfg.max_epochs = epochs
    config.train_dataloader.dataset.indices = 96
    config.train_dataloader.batch_size = 32
    if "val_dataloader" in config:
        config.val_dataloader.dataset.indices = 64
    config.default_hooks.logger.interval = 1
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        config.env_cfg.cudnn_benchmark = False
        config.randomness.deterministic = True
    config.merge_from_dict(options)
    runner = Runner.from_cfg(config)
    runner.train()
    return runner


def load(work_dir: Path, epoch: int) -> dict:
    """Read the checkpoint of an epoch."""
    return torch.load(work_dir / f"epoch_{epoch}.pth", weights_only=True)


def log(work_dir: Path) -> list[dict]:
    """Read the log of the latest run in a work dir."""
    (path,) = sorted(work_dir.glob("*/vis_data/scalars.json"))[-1:]
    return [json.loads(line) for line in path.read_text().splitlines()]


def go_back_to(work_dir: Path, epoch: int) -> None:
    """Leave a run as an interruption after an epoch would have left it."""
    for path in work_dir.glob("epoch_*.pth"):
        if int(path.stem.split("_")[1]) > epoch:
            path.unlink()
    (work_dir / "last_checkpoint").write_text(str(work_dir / f"epoch_{epoch}.pth"))


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
