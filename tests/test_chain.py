"""``tools/run_chain.py``: pretraining, compaction, detection and segmentation of digit scenes, and their report."""

import importlib.util
import json

import cv2
import pytest
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer
from testing_helpers import REPOSITORY, run_own_command

from mmkdprune.checkpoint.loading import load_checkpoint_file
from mmkdprune.commands.chain import stages as chain_module
from mmkdprune.commands.chain.pictures import Scenes, contact_sheet
from mmkdprune.commands.chain.report import table
from mmkdprune.commands.chain.stages import Chain, config_hash

SMALL_SETS = ["dataset.num_scenes=8", "dataset.size=64"]
OPTIONS = {
    "pretrain": ["train_cfg.max_epochs=1", "train_dataloader.dataset.indices=64", "val_dataloader.dataset.indices=16"],
    "detection": ["train_cfg.max_epochs=1", "train_cfg.val_interval=1", "default_hooks.checkpoint.interval=1"],
    "segmentation": ["train_cfg.max_iters=2", "train_cfg.val_interval=2", "default_hooks.checkpoint.interval=2"],
}
for _task in ("detection", "segmentation"):
    OPTIONS[_task] += [f"train_dataloader.{one}" for one in SMALL_SETS]
    OPTIONS[_task] += ["val_dataloader.dataset.num_scenes=2", "val_dataloader.dataset.size=64"]
    OPTIONS[_task] += ["default_hooks.logger.interval=1"]
# Shorter than the logger's interval and an epoch: no loss is logged.
OPTIONS["segmentation"] += ["default_hooks.logger.interval=3", "train_dataloader.dataset.num_scenes=24"]
OPTIONS["segmentation"] += ["model.data_preprocessor.size=(64,64)"]
WORDS = [word for stage, options in OPTIONS.items() for word in (f"--{stage}-options", *options)]


@pytest.fixture(autouse=True)
def _packages(one_thread):
    pytest.importorskip("mmdet")
    pytest.importorskip("mmseg")


@pytest.fixture
def commands(monkeypatch):
    """Commands run inside this process, which saves the imports; ``stop_at`` in the list stops before such a label."""
    ran: list[str] = []
    stop_at: list[str] = []

    def run_inside(command: list[str], label: str, how_to_go_on: str) -> None:
        assert how_to_go_on == "the same command goes on from there"
        if label in stop_at:
            raise SystemExit(130)
        ran.append(label)
        # MMDetection and MMSegmentation call their visualizers by one name in every run.
        for manager in (MMLogger, MessageHub, DefaultScope, Visualizer, *Visualizer.__subclasses__()):
            manager._instance_dict.clear()
        run_own_command(command, monkeypatch)

    monkeypatch.setattr(chain_module, "run_command", run_inside)
    return ran, stop_at


def test_whole_chain_goes_on_after_an_interruption(tmp_path, call, commands, monkeypatch):
    ran, stop_at = commands
    monkeypatch.chdir(tmp_path)
    pretraining = [f"pretraining, {name}, seed 3" for name in ("plain", "mixskd", "compact")]
    runs = [f"{task}, {name}, seed 3" for task in ("detection", "segmentation") for name in chain_module.BACKBONES]
    words = ["--seeds", 3, "--pictures", 2, *WORDS]

    stop_at[:] = ["detection, plain, seed 3"]
    code, _ = call("run_chain.py", *words)
    assert code == 130
    assert ran == [*pretraining, "compaction, seed 3", "detection, scratch, seed 3"]

    # Interrupted again, between the last checkpoint and the end of its validation.
    folder = tmp_path / "work_dirs" / "chain" / "seed3"
    (log,) = (folder / "retinanet_r18-w16_fpn_1xb8-8e_digit-scenes_from_scratch").glob("*/vis_data/scalars.json")
    log.write_text("".join(line + "\n" for line in log.read_text().splitlines() if '"loss"' in line))
    stop_at.clear()
    ran.clear()
    code, output = call("run_chain.py", *words)
    assert code == 0, output[-3000:]
    assert ran == runs
    for label in (*pretraining, "compaction, seed 3"):
        assert f"{label}: done already" in output
    assert "120 keys matched, 0 missing, 0 unexpected" in output
    assert "model.neck.in_channels: [16, 32, 64, 128] became [" in output

    trained, start = (
        load_checkpoint_file(path)["state_dict"]["backbone.layer1.0.conv1.weight"]
        for path in (
            folder / "retinanet_r18-w16_fpn_1xb8-8e_digit-scenes_from_mixskd" / "epoch_1.pth",
            folder / "mixskd_resnet18-w16_1xb64-20e_digits-32px" / "epoch_1.pth",
        )
    )
    # From the pretrained weights, one step away from them: nothing is frozen.
    assert 0 < (trained - start).abs().max() < 0.01
    adapted = Config.fromfile(folder / "fpn_r18-w16_1xb8-400_digit-scenes-128x128_from_compact.py")
    assert adapted.model.backbone.type == "mmkdprune.CompactBackbone"

    report = tmp_path / "work_dirs" / "chain" / "report"
    content = json.loads((report / "report.json").read_text())
    assert [row["backbone"] for row in content["rows"]] == list(chain_module.BACKBONES)
    assert content["command"].startswith("mmkdprune chain --seeds 3")
    for row in content["rows"]:
        assert ("pretraining" in row) == (row["backbone"] != "scratch")
        assert row["detection"]["length"] == "1 of 8 epochs"
        assert row["segmentation"]["history"][-1] == {"iter": 2, **row["segmentation"]["metrics"]}
        assert row["image_shape"] == [3, 128, 128]
        assert [point["iter"] for point in row["detection"]["loss"]] == [1]
        assert (row["segmentation"]["loss"], row["segmentation"]["seconds_an_iteration"]) == ([], None)
    by_name = {row["backbone"]: row for row in content["rows"]}
    assert by_name["plain"]["macs"] == by_name["scratch"]["macs"]
    assert by_name["compact"]["macs"] < 0.6 * by_name["plain"]["macs"]
    text = (report / "report.md").read_text()
    assert text.startswith("| backbone | parameters | MACs | top-1 of the digits | detection, mAP | detection, AP50 |")
    assert table(content) in output
    assert (report / "curves.png").stat().st_size > 10_000
    for task in ("detection", "segmentation"):
        sheet = cv2.imread(str(report / f"predictions_{task}.png"))
        assert sheet.shape[1] > 5 * 256  # the truth and four backbones
        assert sheet.std() > 20

    ran.clear()
    code, output = call("run_chain.py", "--only", "report", *words)
    assert (code, ran) == (0, []), output[-3000:]
    code, output = call("run_chain.py", "--only", "report", *words, "--detection-options", "train_cfg.max_epochs=2")
    assert code == 1
    assert "other options" in output or "not finished" in output
    # What is said of runs with other settings can be done: this tool has no --overwrite.
    other = [
        "--only",
        "detection",
        *words,
        "--detection-options",
        *OPTIONS["detection"],
        "model.bbox_head.feat_channels=8",
    ]
    code, output = call("run_chain.py", *other)
    assert code == 1
    assert "give another --work-dir, or remove the folder to lose that run" in output
    code, output = call("run_chain.py", *other, "--backbones", "plain")
    assert code == 1
    assert "from_plain.py exists already and differs: give another --work-dir, or remove it" in output
    assert ran == []


def test_a_stage_that_is_missing_is_named(tmp_path, call, commands, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output = call("run_chain.py", "--only", "detection", "--backbones", "plain")
    assert code == 1
    assert "epoch_20.pth: the stage 'pretrain' makes it" in output
    code, output = call("run_chain.py", "--skip", "compact", "pretrain", "--backbones", "compact")
    assert code == 1
    assert "compact.pth: the stage 'compact' makes it" in output
    code, output = call("run_chain.py", "--only", "report")
    assert code == 1
    assert "nothing to report" in output
    code, output = call("run_chain.py", "--only", "pretrain", "--plain", "absent.py")
    assert code == 1
    assert "there is no config absent.py" in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "1", "1"], "--seeds names one twice: 1 1"),
        (["--pictures", "-1"], "--pictures must be 0 or more, got -1"),
        (["--only", "report", "--skip", "report"], "not allowed with argument"),
        (["--backbones", "resnet"], "invalid choice: 'resnet'"),
    ],
)
def test_mistakes_on_the_command_line(words, message, call):
    code, output = call("run_chain.py", *words)
    assert code == 2
    assert message in output


def test_an_absent_package_is_named_before_anything_trains(tmp_path, call, commands, monkeypatch):
    ran, _ = commands
    monkeypatch.chdir(tmp_path)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == "mmseg" else find_spec(name, *rest)
    )
    code, output = call("run_chain.py")
    assert code == 1
    assert 'needs MMSegmentation, which is not installed: pip install "mmkdprune[seg]"' in output
    assert ran == []


def test_recorded_reports_are_of_the_present_configs():
    recorded = sorted((REPOSITORY / "benchmarks" / "results").glob("chain_*.json"))
    assert recorded
    for path in recorded:
        report = json.loads(path.read_text())
        for name, config in report["configs"].items():
            found = config_hash(Config.fromfile(REPOSITORY / config))
            assert report["config_sha256"][name] == found, (path.name, name)


def test_table_shows_means_over_seeds():
    row = {
        "backbone": "plain",
        "parameters": 10_000,
        "macs": 1,
        "image_shape": [3, 8, 9],
        "pretraining": {"top1": 90.0},
    }
    outcome = {"length": "2 epochs", "metrics": {"mAP": 10.0}}
    rows = [
        {**row, "seed": 0, "detection": outcome},
        {**row, "seed": 1, "detection": {**outcome, "metrics": {"mAP": 12.0}}},
        {"backbone": "scratch", "seed": 0, "parameters": 10_000, "macs": 1, "detection": outcome},
    ]
    configs = dict.fromkeys(("plain", "mixskd", "compact"), "a_digits.py")
    text = table({"rows": rows, "seeds": [0, 1], "configs": configs})
    assert "| plain | 10,000 | 1 | 90.00 ± 0.00 | 11.00 ± 1.41 |" in text
    assert "| scratch | 10,000 | 1 | - | 10.00 |" in text
    assert "Seeds: 0, 1. Detection: 2 epochs." in text
    assert "one image of 8 x 9 pixels" in text


def test_runs_of_two_seeds_and_other_configs_have_other_folders(tmp_path):
    configs = {
        "plain": "plain.py", "mixskd": "mixskd.py", "compact": "pruned.py", "detection": "a.py", "segmentation": "b.py",
    }  # fmt: skip
    chain = Chain(tmp_path, configs)
    assert chain.compact_folder(0) == tmp_path / "seed0" / "pruned_compact"
    assert chain.compact_folder(1) == tmp_path / "seed1" / "pruned_compact"


def test_pictures_show_boxes_in_the_pixels_of_the_image():
    """The network sees a resized one."""
    config = Config.fromfile(REPOSITORY / "configs/transfer/detection/retinanet_r18-w16_fpn_1xb8-8e_digit-scenes.py")
    config.merge_from_dict({"val_dataloader.dataset.size": 64, "val_dataloader.dataset.num_scenes": 3})
    scenes = Scenes(config, number=2)
    assert scenes.image_shape == (3, 128, 128)
    assert len(scenes.entries) == 2
    pictures = scenes.truth()
    assert pictures[0].shape == (256, 256, 3)
    palette = scenes.dataset.metainfo["palette"]
    scene = scenes.dataset.scene(0)
    for label, box in zip(scene.labels, scene.boxes, strict=True):
        left, _, right, bottom = (4 * box).astype(int)  # 64 pixels are drawn as 256
        if bottom < 256:
            edge = pictures[0][bottom, left:right]
            assert (edge == palette[label]).all(axis=1).mean() > 0.5  # some of it is under another box's text
    sheet = contact_sheet([("one", pictures), ("two", pictures)])
    assert sheet.shape[1] == 2 * (256 + 4)
