"""Whole runs with the speed switches."""

import re
import shutil
import subprocess
import sys

import pytest
import torch
import training_helpers
from test_tools import ENVIRONMENT
from testing_helpers import REPOSITORY
from training_helpers import assert_same, go_back_to, load

COMBINED = "combined/mixskd-ghfp-asrfp_resnet20_1xb64-20e_digits-16px"
COMPILED = {"compile": {"backend": "aot_eager"}}


@pytest.fixture(autouse=True, scope="module")
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def run(work_dir, **options):
    """MixSKD with pruning and averaged weights on 88 digits, so that an epoch has a leftover batch."""
    options = {"model.backbone.depth": 8, "train_dataloader.dataset.indices": 88, **options}
    options["default_hooks.ema"] = {"type": "EMAHook", "momentum": 0.1}
    training_helpers.run(work_dir, COMBINED, 3, **{"default_hooks.checkpoint.max_keep_ckpts": -1, **options})
    return load(work_dir, 3)


@pytest.fixture(scope="module")
def compiled_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def compiled(compiled_folder):
    return run(compiled_folder, **COMPILED)


def test_a_compiled_run_is_the_plain_one(compiled, tmp_path):
    plain = run(tmp_path)
    masks = [checkpoint["mmkdprune"]["pruning"]["units"] for checkpoint in (plain, compiled)]
    assert_same(*masks)
    assert any(mask.any() for unit in masks[0].values() for mask in unit.values() if isinstance(mask, torch.Tensor))
    for part in ("state_dict", "ema_state_dict"):
        assert list(plain[part]) == list(compiled[part])
        torch.testing.assert_close(dict(compiled[part]), dict(plain[part]), rtol=1e-3, atol=1e-5)
    zeros = [value == 0 for checkpoint in (plain, compiled) for value in checkpoint["state_dict"].values()]
    half = len(zeros) // 2
    assert all(torch.equal(*pair) for pair in zip(zeros[:half], zeros[half:], strict=True))


def test_resumed_compiled_run_is_the_same_bit_for_bit(compiled, compiled_folder, tmp_path):
    # What was run on its way there; a second run would prove that runs can be repeated, not more of resuming.
    folder = shutil.copytree(compiled_folder, tmp_path / "resumed")
    go_back_to(folder, 2)
    resumed = run(folder, resume=True, **COMPILED)
    for part in ("state_dict", "ema_state_dict", "optimizer", "mmkdprune"):
        assert_same(compiled[part], resumed[part], part)


def test_hard_filters_held_by_their_gradient(tmp_path):
    """``freeze='grad'`` hooks the parameters, whose gradients the compiled graph computes."""
    pruner = {"method": "ghfp-asrfp", "rate": 0.4, "freeze": "grad"}
    results = [
        run(tmp_path / name, **{"custom_hooks.0.pruner": pruner, **options})
        for name, options in (("plain", {}), ("compiled", COMPILED))
    ]
    plain, ours = (checkpoint["mmkdprune"]["pruning"]["units"] for checkpoint in results)
    assert_same(plain, ours)


def tool(name, *arguments, cwd, code=0):
    """A tool in a process of its own, without a GPU."""
    command = [sys.executable, str(REPOSITORY / "tools" / name), *map(str, arguments)]
    environment = {**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": "", "TORCHINDUCTOR_CACHE_DIR": str(cwd / "inductor")}
    done = subprocess.run(command, cwd=cwd, env=environment, text=True, capture_output=True, timeout=600)
    output = done.stdout + done.stderr
    assert done.returncode == code, output[-4000:]
    return output


FEW = ["train_dataloader.dataset.indices=64", "val_dataloader.dataset.indices=32", "train_cfg.max_epochs=1"]


@pytest.mark.slow
def test_switches_from_a_base_file_and_the_command_line(tmp_path, call, monkeypatch):
    """The one run with real kernels; then the config that it left behind, and the tool that tests it."""
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "fast.py"
    base = REPOSITORY / "configs/mixskd/plain_resnet20_1xb64-20e_digits-16px.py"
    # Two blocks: each has kernels of its own, and they take most of the time.
    stages = "depth=8, num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(1,)"
    config.write_text(
        f"_base_ = ['{base}', '{REPOSITORY}/configs/_base_/speed.py']\n"
        f"model = dict(backbone=dict({stages}), head=dict(in_channels=32))\n"
    )
    output = tool("train.py", config, "--cfg-options", *FEW, "speed.compile=True", cwd=tmp_path)
    on, off = re.search(r"^ +speed +on: (.*)\n +off: (.*)$", output, flags=re.M).groups()
    assert {"fused_optimizer", "compile"} <= set(on.split(", "))
    assert "amp (no CUDA GPU)" in off
    (log,) = (tmp_path / "work_dirs" / "fast").glob("*/*.log")
    assert "speed.fused_optimizer: on (SGD)" in log.read_text()
    assert "torch.compile: _scores_and_loss is one graph" in output
    folder = tmp_path / "work_dirs" / "fast"
    dumped = (folder / "fast.py").read_text()
    assert "speed" not in dumped
    assert "fused=True" in dumped
    assert "compile = True" in dumped
    code, output = call("test.py", config, folder / "epoch_1.pth")
    assert code == 0, output
    assert "accuracy/top1" in output
    again = ["train_cfg.max_epochs=2", "compile=False"]
    code, output = call("train.py", folder / "fast.py", "--work-dir", folder / "on", "--resume", folder / "epoch_1.pth",
                        "--cfg-options", *again)  # fmt: skip
    assert code == 0, output
    assert "resumed epoch: 1" in output
    assert (folder / "on" / "epoch_2.pth").is_file()


def test_pipeline_passes_the_switches_to_every_run(tmp_path, call, commands_inside, monkeypatch):
    monkeypatch.chdir(tmp_path)
    student = REPOSITORY / "configs/hsakd/kd_resnet20_resnet8_1xb64-12e_digits-16px.py"
    command = ["train_pipeline.py", student, "--speed", "--cfg-options", *FEW]
    code, output = call(*command)
    assert code == 0, output
    logs = [log.read_text() for log in (tmp_path / "work_dirs").rglob("*.log")]
    assert sum("speed.fused_optimizer: on (SGD)" in text for text in logs) == 2
    code, output = call(*command)
    assert (code, output.count("done already")) == (0, 2)
    assert len(commands_inside) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU it is no mistake")
def test_mistakes_are_one_message(tmp_path, call):
    config = REPOSITORY / "configs/mixskd/plain_resnet20_1xb64-20e_digits-16px.py"
    options = ["--work-dir", tmp_path, "--cfg-options", "speed.amp=bfloat16"]
    code, output = call("train.py", config, *options)
    assert code == 1
    assert "error: speed.amp='bfloat16' needs a CUDA GPU" in output
    assert "Traceback" not in output
