"""Whole runs of MCL without labels on Digits."""

from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.registry import DATASETS, DefaultScope
from testing_helpers import REPOSITORY
from training_helpers import assert_same, go_back_to, load, log, run

from mmkdprune.deploy.export import export_checkpoint
from mmkdprune.deploy.network import build_network
from mmkdprune.errors import ExportError

COHORT = "moco_mcl/moco-mcl-x2_resnet8_1xb64-40e_digits-16px"
TWIN = "moco_mcl/moco_resnet8_1xb64-40e_digits-16px"
TERMS = ("loss_vcl", "loss_icl", "loss_soft_vcl", "loss_soft_icl")
SHORT = {"model.queue_len": 96, "custom_hooks.1.interval": 1, "custom_hooks.1.num_neighbours": 5}


def train(work_dir: Path, config: str = COHORT, **options):
    return run(work_dir, config, **{**SHORT, **options})


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("cohort")
    train(folder, **{"default_hooks.checkpoint": {"interval": 1, "max_keep_ckpts": -1}})
    return folder


def test_resumed_run_is_the_same_bit_for_bit(work_dir, tmp_path):
    expected = load(work_dir, 4)
    (tmp_path / "epoch_2.pth").write_bytes((work_dir / "epoch_2.pth").read_bytes())
    go_back_to(tmp_path, 2)
    train(tmp_path, resume=True, **{"default_hooks.checkpoint.interval": 1})
    resumed = load(tmp_path, 4)
    for part in ("state_dict", "optimizer", "param_schedulers", "mmkdprune"):
        assert_same(expected[part], resumed[part], part)
    for ours, theirs in zip(log(tmp_path)[-4:], log(work_dir)[-4:], strict=True):
        for name in (*TERMS, "contrast_accuracy", "accuracy/knn_top1"):
            assert ours.get(name) == theirs.get(name)


def test_checkpoints_hold_queues_key_encoders_and_the_stream_of_the_shuffle(work_dir):
    first, last = load(work_dir, 2), load(work_dir, 4)
    state = last["state_dict"]
    assert {name.split(".")[0] for name in state} == {"backbone", "neck", "peers", "key_encoders", "criterion"}
    assert state["criterion.queues"].shape == (2, 96, 128)
    assert state["criterion.pointer"].tolist() == [0]  # 12 batches of 32 in a ring of 96
    for name in ("criterion.queues", "key_encoders.1.backbone.conv1.weight", "peers.1.backbone.conv1.weight"):
        assert not torch.equal(first["state_dict"][name], state[name])
    streams = [checkpoint["mmkdprune"]["random_state"][0]["private"]["shuffle"] for checkpoint in (first, last)]
    assert streams[0] != streams[1]


def test_log_has_the_terms_and_what_contrast_and_neighbours_find(work_dir):
    rows = log(work_dir)
    steps = [row for row in rows if "loss" in row]
    for row in steps:
        assert row["loss"] == pytest.approx(sum(row[name] for name in TERMS))
        assert 0 <= row["contrast_accuracy"] <= 100
    assert sum("accuracy/knn_top1" in row for row in rows) == 5  # at the start, too


@pytest.mark.parametrize("peer", [0, 1])
def test_every_backbone_can_be_exported(peer, work_dir, tmp_path):
    export = export_checkpoint(work_dir / "epoch_4.pth", tmp_path, peer=peer)
    network = build_network(export.meta["model"])
    network.load_state_dict(torch.load(export.path, weights_only=True)["state_dict"])
    state = load(work_dir, 4)["state_dict"]
    prefix = f"peers.{peer}." if peer else ""
    assert all(torch.equal(value, state[prefix + name]) for name, value in network.state_dict().items())
    assert export.meta["algorithm"] == "mmkdprune.MoCoMCL"
    assert export.meta["model"]["data_preprocessor"] == {"mean": [77.8] * 3, "std": [81.2] * 3, "to_rgb": False}
    with pytest.raises(ExportError, match="learns without labels, so there is no classifier to export"):
        export_checkpoint(work_dir / "epoch_4.pth", tmp_path, part="classifier", peer=peer)


def test_twin_is_one_network_with_the_same_backbone(work_dir, tmp_path):
    train(tmp_path, TWIN, epochs=1, **{"default_hooks.checkpoint.interval": 1})
    twin, cohort = load(tmp_path, 1)["state_dict"], load(work_dir, 1)["state_dict"]
    own = {name: value.shape for name, value in cohort.items() if name.startswith(("backbone", "neck"))}
    assert own == {name: value.shape for name, value in twin.items() if name.startswith(("backbone", "neck"))}
    assert not any(name.startswith("peers.") for name in twin)


def test_gradient_accumulation_and_averaged_weights(tmp_path):
    settings = {"optim_wrapper.accumulative_counts": 2, "custom_hooks": [{"type": "EMAHook", "momentum": 0.1}]}
    run(tmp_path, COHORT, epochs=1, **{"model.queue_len": 96, "default_hooks.checkpoint.interval": 1, **settings})
    checkpoint = load(tmp_path, 1)
    for state in (checkpoint["state_dict"], checkpoint["ema_state_dict"]):
        assert any("criterion.queues" in name for name in state)
        assert all(value.isfinite().all() for value in state.values() if value.is_floating_point())


def test_tools(call, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = REPOSITORY / f"configs/{COHORT}.py"
    short = ["train_cfg.max_epochs=1", "train_dataloader.dataset.indices=128", "custom_hooks.1.interval=1"]
    code, printed = call("train.py", config, "--speed", "--cfg-options", *short)
    assert code in (0, None), printed[-3000:]
    assert "k-NN (k = 20) after epoch 1" in printed
    checkpoint = tmp_path / "work_dirs" / config.stem / "epoch_1.pth"
    code, printed = call("export_backbone.py", checkpoint, "--peer", 1, "--check", config)
    assert code == 0, printed
    assert "of mmkdprune.MoCoMCL, peer 1" in printed
    code, printed = call("export_backbone.py", checkpoint, "--part", "classifier")
    assert code == 1
    assert "learns without labels" in printed
    code, printed = call("train.py", config, "--overwrite", "--cfg-options", *short, "train_dataloader.batch_size=60")
    assert code == 1
    assert "is no multiple of the 60 images of a step" in printed


@pytest.mark.parametrize(
    ("data", "size", "folder"), [("stl10", 96, "unlabeled"), ("tiny-imagenet", 64, "train/n0/images")]
)
def test_folders_of_images_become_two_views(data, size, folder, tmp_path):
    (tmp_path / folder).mkdir(parents=True)
    for index in range(3):
        image = np.random.default_rng(index).integers(0, 256, (size, size, 3), dtype=np.uint8)
        mmcv.imwrite(image, str(tmp_path / folder / f"{index}.png"))
    config = Config.fromfile(REPOSITORY / f"configs/moco_mcl/moco_resnet18_1xb128-200e_{data}-{size}px.py")
    config.train_dataloader.dataset.data_root = str(tmp_path)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        images = DATASETS.build(config.train_dataloader.dataset)
        batch = default_collate([images[index] for index in range(3)])
    first, second = batch["inputs"]
    assert first.shape == second.shape == (3, 3, size, size)
    assert not torch.equal(first, second)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_automatic_mixed_precision(tmp_path):
    settings = {"optim_wrapper.type": "AmpOptimWrapper", "optim_wrapper.loss_scale": "dynamic"}
    runner = train(tmp_path, epochs=1, **settings)
    assert torch.isfinite(torch.tensor(runner.message_hub.get_scalar("train/loss").data[0])).all()
