"""What a terminal sees before the first iteration, and what the log file has beside it."""

import logging
import re

import pytest
from testing_helpers import REPOSITORY

from mmkdprune.commands.console import ConsoleFilter

FEW = ("train_cfg.max_epochs=1", "train_dataloader.dataset.indices=24", "val_dataloader.dataset.indices=8")
SCENES = (
    *("train_dataloader.dataset.num_scenes=8", "train_dataloader.dataset.size=64"),
    *("val_dataloader.dataset.num_scenes=2", "val_dataloader.dataset.size=64"),
)
RUNS = {
    "classifier": (
        "combined/mixskd-ghfp-asrfp_resnet20_1xb64-20e_digits-16px.py",
        [*FEW, "train_dataloader.batch_size=8"],
        ("MixSKD on cpu", "train-only", r"\d M in the network, for an image of 3 x 16 x 16", "rate 0.4"),
    ),
    "detector": (
        "transfer/detection/retinanet_r18-w16_fpn_1xb8-8e_digit-scenes.py",
        [*SCENES, "train_cfg.max_epochs=1", "train_cfg.val_interval=1", "default_hooks.logger.interval=1"],
        ("RetinaNet on cpu", "deployable", r"image of 3 x \d+ x \d+"),
    ),
    "segmentor": (
        "transfer/segmentation/fpn_r18-w16_1xb8-400_digit-scenes-128x128.py",
        [
            *(*SCENES, "train_cfg.max_iters=2", "train_cfg.val_interval=2", "default_hooks.logger.interval=1"),
            *("default_hooks.checkpoint.interval=2", "model.data_preprocessor.size=(64,64)"),
        ],
        ("EncoderDecoder on cpu", "deployable", r"image of 3 x 64 x 64"),
    ),
}


@pytest.mark.parametrize("kind", RUNS)
def test_lines_before_the_first_iteration(kind, call, tmp_path, monkeypatch, one_thread):
    if kind != "classifier":
        pytest.importorskip({"detector": "mmdet", "segmentor": "mmseg"}[kind])
    config, options, facts = RUNS[kind]
    own_start = [] if kind == "classifier" else ["model.backbone.init_cfg=None"]  # no backbone is loaded
    options = ["default_hooks.logger.interval=1", *options, *own_start]
    monkeypatch.chdir(tmp_path)
    code, printed = call("train", REPOSITORY / "configs" / config, "--cfg-options", *options)
    assert code == 0, printed
    before = re.split(r"^.*(?:Epoch|Iter)\(train\)", printed, maxsplit=1, flags=re.M)[0]
    assert len(before.splitlines()) <= 25, before
    for fact in (*facts, "seed", "versions", r"mmkdprune \d", "output", "the whole log: ", "training  ", "schedule"):
        assert re.search(fact, before), fact
    assert "FileClient" not in printed
    assert "HardDiskBackend" not in printed
    (log,) = (tmp_path / "work_dirs").glob("*/*/*.log")
    logged = log.read_text()
    assert len(logged.splitlines()) > 200
    for left_out in ("System environment", "Hooks will be executed", "work_dir = "):
        assert left_out in logged
        assert left_out not in printed


def test_verbose_shows_everything(call, tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(tmp_path)
    config, options, _ = RUNS["classifier"]
    code, printed = call("train", REPOSITORY / "configs" / config, "--verbose", "--cfg-options", *options)
    assert code == 0
    for shown in ("System environment", "Hooks will be executed", "This run:"):
        assert shown in printed


def test_warnings_and_loaded_weights_are_shown_until_it_opens():
    def record(level: int, text: str) -> logging.LogRecord:
        return logging.LogRecord("mmengine", level, "file", 1, text, (), None)

    console = ConsoleFilter()
    information = record(logging.INFO, "Hooks will be executed in the following order")
    assert not console.filter(information)
    assert console.filter(record(logging.WARNING, "the teacher and the student ..."))
    assert console.filter(record(logging.INFO, "CifarResNet loaded from x.pth: 98 keys matched, 0 missing"))
    console.open()
    assert console.filter(information)
