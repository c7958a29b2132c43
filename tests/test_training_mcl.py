"""Whole runs of MCL and L-MCL on Digits."""

from pathlib import Path

import pytest
import torch
from training_helpers import assert_same, go_back_to, load, log, run

from mmkdprune.deploy.export import export_checkpoint
from mmkdprune.deploy.network import build_network

MCL = "mcl/mcl-x2_resnet8_1xb64-12e-pairs_digits-16px"
LAYERWISE = "lmcl/lmcl-x2_resnet8_1xb64-12e-pairs_digits-16px"
PLAIN = "mcl/plain_resnet8_1xb64-12e-pairs_digits-16px"
CONTRASTS = ("loss_vcl", "loss_icl", "loss_soft_vcl", "loss_soft_icl")
MEMORY = {"model.loss": {"type": "mmkdprune.MemoryMutualContrastiveLoss"}, "model.num_negatives": 16}
# name: (config, options, logged terms)
KINDS = {
    "pairs": (MCL, {}, ("loss_ce", *CONTRASTS)),
    "branched": (
        MCL,
        {"model.num_peers": 3, "model.shared_stages": 1, "model.loss_weights.loss_kd": 1.0},
        ("loss_kd",),
    ),
    "memory": (MCL, MEMORY, ("loss_ce", *CONTRASTS)),
    "layerwise": (LAYERWISE, {"model.meta_interval": 2}, ("loss_ce", "loss_aggregated_ce", "loss_kd", *CONTRASTS)),
}


def train(work_dir: Path, kind: str, **options):
    config, own, _ = KINDS[kind]
    return run(work_dir, config, **{"train_dataloader.dataset.indices": 64, **own, **options})


@pytest.fixture(scope="module")
def work_dirs(tmp_path_factory) -> dict[str, Path]:
    """An uninterrupted run of each kind."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, folder in folders.items():
        train(folder, kind, **{"default_hooks.checkpoint.max_keep_ckpts": -1})
    return folders


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_run_is_the_same_bit_for_bit(kind, work_dirs, tmp_path):
    expected = load(work_dirs[kind], 4)
    (tmp_path / "epoch_2.pth").write_bytes((work_dirs[kind] / "epoch_2.pth").read_bytes())
    go_back_to(tmp_path, 2)
    train(tmp_path, kind, resume=True)
    resumed = load(tmp_path, 4)
    for part in ("state_dict", "optimizer", "param_schedulers", "mmkdprune"):
        assert_same(expected[part], resumed[part], part)
    rows, others = log(tmp_path), log(work_dirs[kind])
    assert {name for name in others[0] if name.startswith("loss_")} >= set(KINDS[kind][2])
    for ours, theirs in zip(rows[-3:], others[-3:], strict=True):
        for name in (*KINDS[kind][2], "accuracy/top1", "peer1/top1", "ensemble/top1"):
            assert ours.get(name) == theirs.get(name)


def test_checkpoints_hold_banks_and_weight_network(work_dirs):
    checkpoints = {kind: load(folder, 4) for kind, folder in work_dirs.items()}
    parts = {kind: {key.split(".")[0] for key in file["state_dict"]} for kind, file in checkpoints.items()}
    assert parts["pairs"] == parts["branched"] == {"backbone", "head", "peers", "projections"}
    assert parts["memory"] == parts["pairs"] | {"criterion"}
    assert checkpoints["memory"]["state_dict"]["criterion.banks"].shape == (2, 64, 128)
    assert parts["layerwise"] == parts["pairs"] | {"branches", "aggregators", "weight_network"}
    momentum = checkpoints["layerwise"]["mmkdprune"]["weight_network_optimizer"]["state"]
    assert len(momentum) == 12  # weight and bias of 2 x 3 layers
    first, last = (load(work_dirs["layerwise"], epoch)["state_dict"] for epoch in (1, 4))
    changed = [not torch.equal(first[name], last[name]) for name in first if name.startswith("weight_network.")]
    assert all(changed)


def test_log_names_say_whose_accuracy_it_is(work_dirs):
    metrics = {kind: set(log(folder)[-1]) - {"step", "time", "data_time"} for kind, folder in work_dirs.items()}
    two = {"accuracy/top1", "peer1/top1", "ensemble/top1"}
    assert metrics["pairs"] == metrics["memory"] == metrics["layerwise"] == two
    assert metrics["branched"] == two | {"peer2/top1"}


@pytest.mark.parametrize("config", [MCL, LAYERWISE], ids=["mcl", "layerwise"])
def test_all_weights_zero_is_the_plain_twin_bit_for_bit(config, tmp_path):
    run(tmp_path / "plain", PLAIN, epochs=2)
    terms = ("loss_ce", "loss_kd", *CONTRASTS, *(("loss_aggregated_ce",) if config == LAYERWISE else ()))
    run(tmp_path / "ours", config, epochs=2, **{"model.loss_weights": dict.fromkeys(terms, 0.0)})
    plain, ours = (load(tmp_path / name, 2) for name in ("plain", "ours"))
    assert_same(plain["state_dict"], ours["state_dict"])
    assert_same(plain["optimizer"], ours["optimizer"])


@pytest.mark.parametrize(
    ("kind", "peer"), [("pairs", 0), ("pairs", 1), ("branched", 2), ("memory", 1), ("layerwise", 1)]
)
def test_every_peer_can_be_exported(kind, peer, work_dirs, tmp_path):
    export = export_checkpoint(work_dirs[kind] / "epoch_4.pth", tmp_path, part="classifier", peer=peer)
    network = build_network(export.meta["model"])
    network.load_state_dict(torch.load(export.path, weights_only=True)["state_dict"])
    state = load(work_dirs[kind], 4)["state_dict"]
    prefix = f"peers.{peer}." if peer else ""
    assert all(torch.equal(value, state[prefix + name]) for name, value in network.state_dict().items())
    assert set(export.kept) == {"backbone", "head"}
    if kind == "branched":  # what is shared is exported with every peer
        assert torch.equal(network.backbone.conv1.weight, state["backbone.conv1.weight"])
    assert ("peer" in export.path.name) == bool(peer)


@pytest.mark.parametrize("kind", ["branched", "memory", "layerwise"])
def test_gradient_accumulation_and_ema(kind, tmp_path):
    settings = {"optim_wrapper.accumulative_counts": 2, "custom_hooks": [{"type": "EMAHook", "momentum": 0.1}]}
    runner = train(tmp_path, kind, epochs=1, **settings)
    checkpoint = load(tmp_path, 1)
    assert any(name.startswith("module.projections.") for name in checkpoint["ema_state_dict"])
    assert torch.isfinite(torch.tensor(runner.message_hub.get_scalar("train/loss").data[0])).all()


def test_batches_without_class_pairs_are_pointed_out(tmp_path):
    run(tmp_path / "run", MCL, epochs=1, **{"train_dataloader.batch_sampler": None})
    (text,) = [file.read_text() for file in (tmp_path / "run").glob("*/*.log")]
    assert "batch_sampler=dict(type='mmkdprune.ClassPairBatchSampler')" in text
    run(tmp_path / "memory", MCL, epochs=1, **{"train_dataloader.batch_sampler": None}, **MEMORY)
    (text,) = [file.read_text() for file in (tmp_path / "memory").glob("*/*.log")]
    assert "by chance only" not in text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("kind", KINDS)
def test_automatic_mixed_precision(kind, tmp_path):
    settings = {"optim_wrapper.type": "AmpOptimWrapper", "optim_wrapper.loss_scale": "dynamic"}
    runner = train(tmp_path, kind, epochs=1, **settings)
    assert torch.isfinite(torch.tensor(runner.message_hub.get_scalar("train/loss").data[0])).all()
