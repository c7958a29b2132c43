"""From a pruned run to the compact network in use: the real commands on digits."""

import json
import re
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from testing_helpers import REPOSITORY

from mmkdprune.deploy.network import build_network, load_deployable

TOOLS = REPOSITORY / "tools"
CONFIG = """
_base_ = '{base}/configs/mixskd/plain_resnet20_1xb64-20e_digits-16px.py'
model = dict(backbone=dict(depth=8))
train_cfg = dict(max_epochs=4)
custom_hooks = [
    dict(type='mmkdprune.FilterPruningHook', pruner=dict(method='ghfp-asrfp', rate=0.4, coupling='group')),
]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Config and last checkpoint of a short pruned run."""
    folder = tmp_path_factory.mktemp("pruned")
    config = folder / "pruned.py"
    config.write_text(CONFIG.format(base=REPOSITORY))
    command = [sys.executable, TOOLS / "train.py", config, "--work-dir", folder / "run"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, cwd=REPOSITORY)
    return config, folder / "run" / "epoch_4.pth"


@pytest.fixture
def compacted(run, call, tmp_path):
    """What the tool wrote and printed."""
    out = tmp_path / "it's compact"
    code, printed = call("compact.py", *run, "--out", out)
    assert code == 0, printed
    return out, printed


def accuracy(call, config, checkpoint, folder):
    metrics = folder / "metrics.json"
    code, printed = call(
        "test.py", config, checkpoint, "--work-dir", folder, "--out", metrics, "--out-item", "metrics"
    )  # fmt: skip
    assert code == 0, printed
    return json.loads(metrics.read_text())["accuracy/top1"]


def test_the_compact_network_decides_as_the_pruned_one(run, compacted, call, tmp_path):
    out, printed = compacted
    assert sorted(path.name for path in out.iterdir()) == [
        "compact.pth", "config.py", "plan.json", "report.json", "report.md", "report.png",
    ]  # fmt: skip
    dense = accuracy(call, *run, tmp_path / "dense")
    assert dense > 15
    assert accuracy(call, out / "config.py", out / "compact.pth", tmp_path / "small") == dense
    moved = out.rename(tmp_path / "moved")
    assert accuracy(call, moved / "config.py", moved / "compact.pth", tmp_path / "again") == dense
    report = json.loads((moved / "report.json").read_text())
    for name in ("macs", "params", "file_bytes"):
        assert report["compact"][name] < 0.6 * report["dense"][name]
    assert report["check"]["max_relative_error"] < 1e-5
    assert (moved / "compact.pth").stat().st_size == report["compact"]["file_bytes"]
    assert "| parameters | 0.078 M |" in printed
    assert re.search(r"largest relative error \d\.\de-\d\d on random images of 16x16 and", printed)
    assert "model['neck'] = dict(in_channels=[10, 20, 39])" in printed
    assert (moved / "report.md").read_text().count("| backbone.layer") >= 12


def test_fine_tuning_and_export(compacted, call, tmp_path):
    out, _ = compacted
    code, printed = call(
        "train.py", out / "config.py", "--work-dir", tmp_path / "tuned", "--cfg-options", "train_cfg.max_epochs=1"
    )  # fmt: skip
    assert code == 0, printed
    assert "Pruning" not in printed
    tuned = torch.load(tmp_path / "tuned" / "epoch_1.pth", weights_only=True)
    start = torch.load(out / "compact.pth", weights_only=True)
    assert {key: value.shape for key, value in tuned["state_dict"].items()} == {
        key: value.shape for key, value in start["state_dict"].items()
    }
    code, printed = call("export_backbone.py", tmp_path / "tuned" / "epoch_1.pth", tmp_path / "tuned" / "backbone")
    assert code == 0, printed
    assert "0 missing, 0 unexpected" in printed
    (exported,) = (tmp_path / "tuned").glob("backbone-*.pth")
    content = torch.load(exported, weights_only=True)
    assert str(tmp_path) not in str(content["meta"])
    network = build_network(content["meta"]["model"])  # the plan is in the file
    network.load_state_dict(content["state_dict"], strict=True)
    assert f"plan='{exported}'" in printed
    assert f"checkpoint='{exported}'" in printed


def test_the_printed_lines_work(compacted, tmp_path):
    _, printed = compacted
    lines = re.search(r"# --- mmpretrain ---\n(.*?)\n\n", printed, flags=re.S)[1]
    config = tmp_path / "own.py"
    base = f"_base_ = '{REPOSITORY}/configs/mixskd/plain_resnet20_1xb64-20e_digits-16px.py'\n"
    config.write_text(f"{base}{lines}\nmodel['head'] = dict(in_channels=39)\n")
    model = Config.fromfile(config).model
    assert model.backbone.type == "mmkdprune.CompactBackbone"
    assert load_deployable(model.backbone.plan, "backbone")[0].feat_dim == 39


@pytest.mark.parametrize("part", ["classifier", "backbone"])
def test_onnx_of_the_compact_network(compacted, call, tmp_path, part):
    pytest.importorskip("onnxruntime")
    out, _ = compacted
    target = tmp_path / "network.onnx"
    code, printed = call("export_onnx.py", out / "compact.pth", "--out", target, "--part", part)
    assert code == 0, printed
    assert "images: ['N', 3, 16, 16]" in printed
    assert ("logits: ['N', 10]" if part == "classifier" else "map0: ['N', 39, 4, 4]") in printed
    assert float(re.search(r"PyTorch: (\S+)", printed)[1]) < 1e-4
    code, printed = call("export_onnx.py", out / "compact.pth", "--out", target)
    assert code == 1
    assert "exists already" in printed


def test_the_commands_of_the_docs(run, call, tmp_path):
    pytest.importorskip("onnxruntime")
    page = (REPOSITORY / "docs" / "compaction.md").read_text()
    commands = re.findall(r"^mmkdprune (.*)$", page, flags=re.M)
    assert len(commands) == 2
    names = {"CONFIG": run[0], "CHECKPOINT": run[1], "DIR": tmp_path / "made"}
    for command in commands:
        tool, *arguments = re.sub(r"\b(CONFIG|CHECKPOINT|DIR)\b", lambda name: str(names[name[0]]), command).split()
        code, printed = call(tool, *arguments)
        assert code == 0, printed
    assert (tmp_path / "made" / "compact.onnx").is_file()


def test_onnx_of_the_pruned_run_is_larger(run, compacted, call, tmp_path):
    pytest.importorskip("onnxruntime")
    sizes = []
    for name, checkpoint in (("dense", run[1]), ("compact", compacted[0] / "compact.pth")):
        target = tmp_path / f"{name}.onnx"
        assert call("export_onnx.py", checkpoint, "--out", target)[0] == 0
        sizes.append(target.stat().st_size)
    assert sizes[1] < 0.6 * sizes[0]


def test_bad_input(run, call, tmp_path):
    config, checkpoint = run
    full = tmp_path / "full"
    full.mkdir()
    (full / "something").touch()
    dense = tmp_path / "dense.pth"
    network, _ = load_deployable(checkpoint)
    torch.manual_seed(0)
    for parameter in network.parameters():
        parameter.data.uniform_(0.5, 1)
    torch.save({"state_dict": network.state_dict()}, dense)
    other = tmp_path / "other.py"
    other.write_text(f"_base_ = '{config}'\nmodel = dict(backbone=dict(depth=20))\n")
    for arguments, message in (
        ([config, checkpoint, "--out", full], "exists already and is not empty"),
        ([config, tmp_path / "nowhere.pth", "--out", tmp_path / "a"], "nowhere.pth"),
        ([config, dense, "--out", tmp_path / "a"], "is not pruned: no filter is zero"),
        ([other, checkpoint, "--out", tmp_path / "a"], "are not those of this config's network"),
        ([config, checkpoint, "--out", tmp_path / "a", "--divisor", "0"], "--divisor must be 1 or more"),
        ([config, checkpoint, "--out", tmp_path / "a", "--weights", "ema"], "needs a run with EMAHook"),
    ):
        code, printed = call("compact.py", *arguments)
        assert code == 1
        assert message in printed
        assert "Traceback" not in printed
        assert not (tmp_path / "a").exists()
    code, printed = call("export_onnx.py", dense, "--out", tmp_path / "x.onnx")
    assert code == 1
    assert "does not say its config" in printed


def test_a_diverged_run_and_leftovers(run, call, tmp_path):
    config, checkpoint = run
    content = torch.load(checkpoint)
    content["state_dict"]["backbone.conv1.weight"][0, 0, 0, 0] = float("nan")
    bad, out = tmp_path / "epoch_4.pth", tmp_path / "small"
    torch.save(content, bad)
    code, printed = call("compact.py", config, bad, "--out", out)
    assert (code, out.exists()) == (1, False)
    assert f"error: {bad} holds weights that are infinite or not a number" in printed
    code, printed = call("test.py", config, bad, "--work-dir", tmp_path / "test")
    assert code == 1
    assert "holds weights that are infinite" in printed
    for name in (".small.0123abcd.tmp", ".small.ab_cd012"):  # of killed calls, of this version and of an earlier one
        (tmp_path / name).mkdir()
        (tmp_path / name / "compact.pth").write_text("half")
    others = tmp_path / ".small.settings"
    others.mkdir()
    (others / "mine.txt").write_text("kept")
    code, printed = call("compact.py", config, checkpoint, "--out", out)
    assert code == 0, printed
    assert sorted(path.name for path in tmp_path.iterdir()) == [".small.settings", "epoch_4.pth", "small", "test"]
