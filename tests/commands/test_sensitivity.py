"""``mmkdprune sensitivity`` on digits: files, suggestion, interruption, other settings, mistakes."""

import json

import pytest
import torch
from mmengine.config import Config
from testing_helpers import REPOSITORY
from training_helpers import run as train

from mmkdprune.commands.sensitivity_record import SensitivityRecord
from mmkdprune.deploy.network import build_network
from mmkdprune.engine.pruning.builder import PrunerBuilder
from mmkdprune.evaluation.part import PartialEvaluation
from mmkdprune.pruning import compact, complexity

PLAIN = "mixskd/plain_resnet20_1xb64-20e_digits-16px"
CONFIG = f"""
_base_ = '{REPOSITORY}/configs/{PLAIN}.py'
model = dict(backbone=dict(depth=8))
val_dataloader = dict(dataset=dict(indices=64))
"""
FEW = ("--rates", "0.25", "0.5", "--recalibration-images", "64", "--round-to", "1")


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    pass


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Config and checkpoint of a short run."""
    folder = tmp_path_factory.mktemp("plain")
    config = folder / "plain.py"
    config.write_text(CONFIG)
    options = {"model.backbone.depth": 8, "train_dataloader.dataset.indices": 640}
    train(folder / "run", PLAIN, epochs=3, **options)
    return config, folder / "run" / "epoch_3.pth"


@pytest.fixture
def measure(call, trained, tmp_path):
    """Call the command; returns its exit code, what it printed, and the content of its file."""

    def measure(*arguments, out=tmp_path / "out", inputs=trained, few=FEW):
        code, printed = call("sensitivity", *inputs, "--out", out, *few, *arguments)
        file = out / "sensitivity.json"
        return code, printed, json.loads(file.read_text()) if file.is_file() else None

    return measure


def points(content):
    return {name: layer["points"] for name, layer in content["layers"].items()}


def test_curves_and_suggestion(measure, trained, call, tmp_path):
    code, printed, content = measure()
    assert code == 0, printed
    metrics = tmp_path / "metrics.json"
    options = ("--work-dir", tmp_path / "test", "--out", metrics, "--out-item", "metrics")
    val = Config.fromfile(trained[0]).val_dataloader.dataset
    code, tested = call("test", *trained, *options, "--cfg-options", "test_dataloader.dataset.indices=64")
    assert code == 0, tested
    assert val.indices == 64
    assert content["dense"]["accuracy/top1"] == pytest.approx(json.loads(metrics.read_text())["accuracy/top1"])
    assert content["dense"]["accuracy/top1"] > 30
    assert content["validation_images"] == content["training_images"] == 64
    assert content["part"] == "backbone"
    assert list(content["layers"]) == [
        "conv1", "layer1.0.conv1", "layer2.0.conv1", "layer2.0.conv2", "layer3.0.conv1", "layer3.0.conv2"
    ]  # fmt: skip
    assert content["layers"]["conv1"]["layers"] == ["conv1", "layer1.0.conv2"]
    assert list(content["layers"]["layer3.0.conv1"]["points"]) == ["16", "32"]
    assert str(tmp_path) not in json.dumps(content)
    out = tmp_path / "out"
    assert (out / "sensitivity.png").read_bytes().startswith(b"\x89PNG")
    assert f"{content['suggestion']['summary']}." in printed
    # What is printed is what is written, and what it says is so.
    text = (out / "sensitivity_prune.py").read_text()
    assert text.partition("prune = ")[2] in printed
    prune = Config.fromfile(out / "sensitivity_prune.py").prune
    shape, model = (3, 16, 16), build_network(Config.fromfile(trained[0]).model, "mmpretrain")
    dense = complexity(model.backbone, shape, rounds=0)
    pruner = PrunerBuilder({**prune.pruner, "method": "hfp"})(model)
    pruner.step(0, 1)
    pruner.finalize()
    small, _ = compact(model.backbone, shape, check=False)
    assert complexity(small, shape, rounds=0)["macs"] / dense["macs"] == pytest.approx(0.5, rel=0.02)


def test_an_interrupted_call_goes_on(measure, monkeypatch, tmp_path):
    _, _, whole = measure(out=tmp_path / "whole")
    original, calls = PartialEvaluation.metrics, []

    def interrupted(self, recalibrate):
        calls.append(recalibrate)
        if len(calls) == 6:  # dense, recalibrated, and three points
            raise KeyboardInterrupt
        return original(self, recalibrate)

    monkeypatch.setattr(PartialEvaluation, "metrics", interrupted)
    code, printed, content = measure()
    assert code == 130
    assert "repeat the command to go on" in printed
    assert sum(map(len, points(content).values())) == 3
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "sensitivity.json"]
    code, printed, content = measure()
    assert code == 0, printed
    assert "12 points on 64 validation and 64 training images; 3 are there already" in printed
    assert len(calls) - 6 == 9 + 2  # what was left, and the two networks of the suggestion
    assert {**content, "seconds": 0} == {**whole, "seconds": 0}
    del calls[6:]
    # Rates add up, and another target needs no points.
    code, printed, content = measure("--rates", "0.75", "--target-params", "0.6")
    assert code == 0, printed
    assert content["rates"] == [0.25, 0.5, 0.75]
    assert len(calls) - 6 == 6 + 2
    assert content["suggestion"]["target"] == {"params": 0.6}


@pytest.fixture
def measured(trained, tmp_path):
    """A file with the settings of nobody."""
    folder = tmp_path / "other"
    record = SensitivityRecord(folder / "sensitivity.json", {"weights": "0" * 16, "images": 5})
    record.save()
    return folder


def test_files_of_other_settings_are_refused(measure, measured, tmp_path):
    before = (measured / "sensitivity.json").read_bytes()
    code, printed, _ = measure(out=measured)
    assert code == 1
    assert "was measured with other settings, weights: '0000000000000000' there" in printed
    assert "--overwrite" in printed
    assert (measured / "sensitivity.json").read_bytes() == before
    code, printed, _ = measure("--include", "layer3.0.conv1", "--target-macs", "0.95", "--overwrite", out=measured)
    assert code == 0, printed
    code, printed, _ = measure("--images", "63", "--include", "layer3.0.conv1", "--target-macs", "0.95", out=measured)
    assert code == 1
    assert "images: 512 there, 63 here" in printed
    (measured / "sensitivity.json").write_text("{}")
    code, printed, _ = measure(out=measured)
    assert code == 1
    assert "is no file of this version of mmkdprune sensitivity" in printed


def test_single_layers(measure, tmp_path):
    code, printed, content = measure("--coupling", "independent", "--include", "conv1")
    assert code == 0, printed
    assert "suggestion" not in content
    assert all(layer["layers"] == [name] for name, layer in content["layers"].items())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["sensitivity.json", "sensitivity.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rates", "0", "0.5"], "--rates must lie between 0 and 1, both excluded, got 0"),
        (["--rates", "1"], "--rates must lie between 0 and 1"),
        (["--images", "0"], "--images must be 1 or more, got 0"),
        (["--target-macs", "1.5"], "--target-macs is the share to be left"),
        (["--coupling", "independent", "--target-macs", "0.5"], "--coupling independent leaves it to chance"),
        (["--target-macs", "0.5", "--target-params", "0.5"], "not allowed with"),
        (["--cfg-options", "model.backbone.depth=20"], "are not those of this config's network"),
        (["--cfg-options", "val_dataloader=None"], "has no val_dataloader: there is nothing to measure on"),
        (["--cfg-options", "train_dataloader=None"], "--recalibration-images 0 does without"),
        (["--target-macs", "0.001"], "target.macs=0.001 cannot be reached"),
        (["--round-to", "128"], "round_to=128 is larger than every layer"),
        (
            ["--metric", "mAP", "--include", "layer3.0.conv1", "--target-macs", "0.95"],
            "gives no mAP, only accuracy/top1",
        ),
        (["--include", "nothing"], "include: 'nothing' matches none"),
        (["--no-such-option"], "unrecognized arguments"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(measure, arguments, message):
    code, printed, _ = measure(*arguments)
    assert code, printed
    assert message in printed
    assert "Traceback" not in printed


def test_files_that_are_not_there_or_cannot_be_written(measure, trained, tmp_path):
    code, printed, _ = measure(inputs=(trained[0], tmp_path / "absent.pth"))
    assert code == 1
    assert "there is no checkpoint" in printed
    blocked = tmp_path / "file"
    blocked.write_text("")
    code, printed, _ = measure(out=blocked / "folder")
    assert code == 1
    assert "a folder is needed" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("package", "name", "metric"),
    [
        ("mmdet", "detection/retinanet_r18-w16_fpn_1xb8-8e_digit-scenes", "coco/bbox_mAP"),
        ("mmseg", "segmentation/fpn_r18-w16_1xb8-400_digit-scenes-128x128", "mIoU"),
    ],
)
def test_detectors_and_segmentors(package, name, metric, measure, tmp_path):
    pytest.importorskip(package)
    config = REPOSITORY / "configs" / "transfer" / f"{name}.py"
    torch.manual_seed(0)
    content = Config.fromfile(config)
    content.model.backbone.pop("init_cfg", None)
    torch.save({"state_dict": build_network(content.model, package).state_dict()}, tmp_path / "random.pth")
    few = ("--rates", "0.5", "--images", "3", "--recalibration-images", "4", "--include", "layer4", "--metric", metric)
    code, printed, content = measure("--target-macs", "0.9", inputs=(config, tmp_path / "random.pth"), few=few)
    assert code == 0, printed
    assert content["validation_images"] == 3
    assert len(content["layers"]) == 3
    assert all(metric in found for layer in content["layers"].values() for found in layer["points"].values())
    assert metric in content["suggestion"]["one_shot"]
