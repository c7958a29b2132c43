"""Whole runs of MixSKD on Digits."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from testing_helpers import REPOSITORY
from training_helpers import assert_same, go_back_to, load, log, run

from mmkdprune.deploy.export import export_checkpoint
from mmkdprune.deploy.network import build_network
from mmkdprune.models.algorithms import MixSKD

CONFIGS = REPOSITORY / "configs" / "mixskd"
ALL_ZERO = dict.fromkeys(MixSKD.loss_names, 0.0)


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    work_dir = tmp_path_factory.mktemp("straight")
    run(work_dir)
    return work_dir


def test_resumed_run_is_the_same_bit_for_bit(straight, tmp_path):
    run(tmp_path, epochs=4, **{"default_hooks.checkpoint.max_keep_ckpts": -1})
    go_back_to(tmp_path, 2)
    run(tmp_path, resume=True)
    expected, resumed = load(straight, 4), load(tmp_path, 4)
    for part in ("state_dict", "optimizer", "param_schedulers", "mmkdprune"):
        assert_same(expected[part], resumed[part], part)
    terms = [name for name in log(straight)[-2] if "loss" in name]
    assert set(terms) == {"loss", *MixSKD.loss_names}
    for ours, theirs in zip(log(tmp_path)[-4:], log(straight)[-4:], strict=True):
        assert {name: ours.get(name) for name in terms} == {name: theirs.get(name) for name in terms}
        assert ours.get("accuracy/top1") == theirs.get("accuracy/top1")


def test_exported_network_gives_the_logits_of_the_trained_one(straight, tmp_path):
    config = Config.fromfile(CONFIGS / "mixskd_resnet20_1xb64-20e_digits-16px.py")
    init_default_scope("mmpretrain")
    trained = MODELS.build(config.model)
    trained.load_state_dict(load(straight, 4)["state_dict"])
    export = export_checkpoint(straight / "epoch_4.pth", tmp_path, part="classifier")
    network = build_network(export.meta["model"])
    network.load_state_dict(torch.load(export.path, weights_only=True)["state_dict"])
    plain = Config.fromfile(CONFIGS / "plain_resnet20_1xb64-20e_digits-16px.py")
    assert list(network.state_dict()) == list(MODELS.build(plain.model).state_dict())
    images = torch.randn(4, 3, 16, 16)
    trained.eval()
    network.eval()
    assert torch.equal(network(images, mode="tensor"), trained.forward_heads(images)[0][-1])


def test_checkpoint_holds_the_private_random_streams(straight):
    (state,) = load(straight, 4)["mmkdprune"]["random_state"]
    assert "mixup_random" in json.dumps(list(state["private"]))


def test_all_weights_zero_is_the_plain_twin_bit_for_bit(tmp_path):
    """The same config but for the model's type, the same seed: data order, augmentation and weights agree."""
    run(tmp_path / "plain", "mixskd/plain_resnet20_1xb64-20e_digits-16px", epochs=2)
    run(tmp_path / "mixskd", epochs=2, **{"model.loss_weights": ALL_ZERO})
    plain, ours = (load(tmp_path / name, 2) for name in ("plain", "mixskd"))
    assert_same(plain["state_dict"], ours["state_dict"])
    assert_same(plain["optimizer"], ours["optimizer"])


def test_losses_are_read_when_they_are_logged_and_the_log_is_the_same(straight, tmp_path, monkeypatch):
    reads = []
    item = torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda self: reads.append(1) or item(self))
    run(tmp_path / "stock", epochs=1, **{"default_hooks.runtime_info.type": "RuntimeInfoHook"})
    stock = len(reads)
    reads.clear()
    run(tmp_path / "deferred", epochs=1, **{"default_hooks.logger.interval": 100})
    # three iterations of eight values each
    assert stock - len(reads) == 3 * (len(MixSKD.loss_names) + 1)
    for ours, theirs in zip(log(straight)[:3], log(tmp_path / "stock")[:3], strict=True):
        assert {name: ours[name] for name in MixSKD.loss_names} == {name: theirs[name] for name in MixSKD.loss_names}
    history = [load(tmp_path / name, 1)["message_hub"]["log_scalars"] for name in ("stock", "deferred")]
    for name in MixSKD.loss_names:
        assert_same(*(scalars[f"train/{name}"] for scalars in history))


def test_a_checkpoint_within_an_epoch_says_that_the_epoch_starts_again(tmp_path):
    saving = {"default_hooks.checkpoint.by_epoch": False, "default_hooks.checkpoint.interval": 2}
    run(tmp_path, epochs=1, **saving)
    run(tmp_path, epochs=1, resume=True, load_from=str(tmp_path / "iter_2.pth"), **saving)
    (text,) = [file.read_text() for file in sorted(tmp_path.glob("*/*.log"))[-1:]]
    assert "saved within epoch 1 (iteration 2)" in text


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_automatic_mixed_precision(tmp_path):
    options = {"optim_wrapper.type": "AmpOptimWrapper", "optim_wrapper.loss_scale": "dynamic"}
    runner = run(tmp_path, epochs=1, **options)
    assert "loss_scaler" in load(tmp_path, 1)["optimizer"]
    assert torch.isfinite(torch.tensor(runner.message_hub.get_scalar("train/loss").data[0])).all()
