"""Whole runs of HSAKD, online HSSAKD and classic distillation on Digits."""

from pathlib import Path

import pytest
import torch
from testing_helpers import REPOSITORY
from training_helpers import assert_same, go_back_to, load, log, run

from mmkdprune.deploy.export import export_checkpoint
from mmkdprune.deploy.network import build_network
from mmkdprune.errors import ExportError
from mmkdprune.models.algorithms import HSAKD, OnlineHSSAKD

TEACHER = "hsakd/hsakd-teacher_resnet20_1xb64-12e_digits-16px"
STUDENT = "hsakd/hsakd_resnet20_resnet8_1xb64-12e_digits-16px"
DISTILLED = "hsakd/kd_resnet20_resnet8_1xb64-12e_digits-16px"
ONLINE = "hssakd/hssakd-x2_resnet8_1xb64-12e_digits-16px"
PLAIN = "hsakd/plain_resnet8_1xb64-12e_digits-16px"
TERMS = {
    TEACHER: ("loss_ce", "loss_joint_ce"),
    STUDENT: ("loss_ce", "loss_kd", "loss_joint_kd"),
    DISTILLED: ("loss_ce", "loss_kd"),
    ONLINE: OnlineHSSAKD.loss_names,
}
BRANCHES = {f"branch{index}/{kind}_top1" for index in (1, 2, 3) for kind in ("joint", "class")}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    work_dir = tmp_path_factory.mktemp("teacher")
    run(work_dir, TEACHER)
    return work_dir


@pytest.fixture(scope="module")
def work_dirs(teacher, tmp_path_factory) -> dict[str, Path]:
    """An uninterrupted run of each kind."""
    folders = {TEACHER: teacher}
    for config in (STUDENT, DISTILLED, ONLINE):
        folders[config] = tmp_path_factory.mktemp(config.split("/")[1])
        run(folders[config], config, **options(config, teacher))
    return folders


def options(config: str, teacher: Path) -> dict:
    return {"model.teacher.checkpoint": str(teacher / "epoch_4.pth")} if config in (STUDENT, DISTILLED) else {}


@pytest.mark.parametrize("config", TERMS, ids=["teacher", "student", "classic", "online"])
def test_resumed_run_is_the_same_bit_for_bit(config, work_dirs, tmp_path):
    settings = options(config, work_dirs[TEACHER])
    run(tmp_path, config, **{"default_hooks.checkpoint.max_keep_ckpts": -1}, **settings)
    go_back_to(tmp_path, 2)
    run(tmp_path, config, resume=True, **settings)
    expected, resumed = load(work_dirs[config], 4), load(tmp_path, 4)
    for part in ("state_dict", "optimizer", "param_schedulers", "mmkdprune"):
        assert_same(expected[part], resumed[part], part)
    rows, others = log(tmp_path), log(work_dirs[config])
    assert set(TERMS[config]) == {name for name in others[0] if name.startswith("loss_")}
    for ours, theirs in zip(rows[-8:], others[-8:], strict=True):
        for name in (*TERMS[config], "accuracy/top1", *BRANCHES, "peer1/top1"):
            assert ours.get(name) == theirs.get(name)


def test_log_names_say_whose_accuracy_it_is(work_dirs):
    metrics = {config: set(log(folder)[-1]) - {"step", "time", "data_time"} for config, folder in work_dirs.items()}
    assert metrics[TEACHER] == {"accuracy/top1", *BRANCHES}
    assert metrics[STUDENT] == {"accuracy/top1", "teacher/top1", *BRANCHES}
    assert metrics[DISTILLED] == {"accuracy/top1", "teacher/top1"}
    assert metrics[ONLINE] == {"accuracy/top1", "peer1/top1", *BRANCHES, *(f"peer1/{name}" for name in BRANCHES)}


def test_checkpoints_do_not_hold_the_teacher(work_dirs):
    for config, parts in (
        (STUDENT, {"backbone", "head", "branches"}),
        (DISTILLED, {"backbone", "head"}),
        (ONLINE, {"backbone", "head", "branches", "peers"}),
    ):
        checkpoint = load(work_dirs[config], 4)
        assert {key.split(".")[0] for key in checkpoint["state_dict"]} == parts
        tensors = sum(value.numel() for value in checkpoint["state_dict"].values())
        momentum = sum(state["momentum_buffer"].numel() for state in checkpoint["optimizer"]["state"].values())
        assert momentum <= tensors


@pytest.mark.parametrize(
    ("config", "terms"), [(STUDENT, TERMS[STUDENT]), (ONLINE, TERMS[ONLINE])], ids=["student", "online"]
)
def test_all_weights_zero_is_the_plain_twin_bit_for_bit(config, terms, teacher, tmp_path):
    run(tmp_path / "plain", PLAIN, epochs=2)
    zero = {"model.loss_weights": dict.fromkeys(terms, 0.0)}
    run(tmp_path / "ours", config, epochs=2, **zero, **options(config, teacher))
    plain, ours = (load(tmp_path / name, 2) for name in ("plain", "ours"))
    assert_same(plain["state_dict"], ours["state_dict"])
    assert_same(plain["optimizer"], ours["optimizer"])


def test_frozen_teacher_keeps_the_pretrained_network(tmp_path):
    run(tmp_path / "plain", "hsakd/plain_resnet20_1xb64-12e_digits-16px", epochs=1)
    pretrained = str(tmp_path / "plain" / "epoch_1.pth")
    frozen = {"model.teacher_mode": "frozen", "model.pretrained": pretrained}
    run(tmp_path / "frozen", TEACHER, epochs=2, **frozen)
    plain, teacher = load(tmp_path / "plain", 1)["state_dict"], load(tmp_path / "frozen", 2)["state_dict"]
    assert_same(plain, {key: value for key, value in teacher.items() if not key.startswith("branches.")})
    first, second = [row for row in log(tmp_path / "frozen") if "accuracy/top1" in row]
    assert first["accuracy/top1"] == second["accuracy/top1"] == log(tmp_path / "plain")[-1]["accuracy/top1"]


def test_a_teacher_at_chance_level_is_reported(teacher, tmp_path):
    checkpoint = load(teacher, 4)
    for key, value in checkpoint["state_dict"].items():
        if key.startswith("head."):
            value.zero_()
    torch.save(checkpoint, tmp_path / "random.pth")
    run(tmp_path / "run", STUDENT, epochs=1, **{"model.teacher.checkpoint": str(tmp_path / "random.pth")})
    (text,) = [file.read_text() for file in (tmp_path / "run").glob("*/*.log")]
    assert "CHANCE LEVEL for 10 classes" in text


@pytest.mark.parametrize("peer", [0, 1])
def test_every_peer_can_be_exported(peer, work_dirs, tmp_path):
    export = export_checkpoint(work_dirs[ONLINE] / "epoch_4.pth", tmp_path, part="classifier", peer=peer)
    network = build_network(export.meta["model"])
    network.load_state_dict(torch.load(export.path, weights_only=True)["state_dict"])
    state = load(work_dirs[ONLINE], 4)["state_dict"]
    prefix = "peers.1." if peer else ""
    assert all(torch.equal(value, state[prefix + name]) for name, value in network.state_dict().items())
    assert set(export.kept) == {"backbone", "head"}
    assert "peers" in export.dropped
    assert sum(part.keys for part in (*export.kept.values(), *export.dropped.values())) == len(state)
    assert ("peer1" in export.path.name) == bool(peer)


def test_peers_that_are_not_there(work_dirs, tmp_path):
    with pytest.raises(ExportError, match=r"no peer 2: it holds peer 0 .* and \[1\]"):
        export_checkpoint(work_dirs[ONLINE] / "epoch_4.pth", tmp_path, peer=2)
    with pytest.raises(ExportError, match=r"no peer 1: .* no other"):
        export_checkpoint(work_dirs[STUDENT] / "epoch_4.pth", tmp_path, peer=1)


def test_exported_student_gives_the_logits_of_the_trained_one(work_dirs, tmp_path):
    export = export_checkpoint(work_dirs[STUDENT] / "epoch_4.pth", tmp_path, part="classifier")
    network = build_network(export.meta["model"])
    network.load_state_dict(torch.load(export.path, weights_only=True)["state_dict"])
    assert export.meta["algorithm"] == "mmkdprune.HSAKD"
    assert str(REPOSITORY) not in str(export.meta)
    assert "checkpoint" not in str(export.meta)
    model = HSAKD(**{name: export.meta["model"].get(name) for name in ("backbone", "neck", "head")}, phase="teacher")
    model.load_state_dict(load(work_dirs[STUDENT], 4)["state_dict"])
    images = torch.randn(4, 3, 16, 16)
    model.eval()
    network.eval()
    assert torch.equal(network(images, mode="tensor"), model.forward_joint(images)[0])


def test_gradient_accumulation_and_ema(teacher, tmp_path):
    settings = {"optim_wrapper.accumulative_counts": 2, "custom_hooks": [{"type": "EMAHook", "momentum": 0.1}]}
    for config in (STUDENT, ONLINE):
        runner = run(tmp_path / config, config, epochs=1, **settings, **options(config, teacher))
        checkpoint = load(tmp_path / config, 1)
        assert any(name.startswith("module.branches.") for name in checkpoint["ema_state_dict"])
        assert not any("teacher" in name for name in checkpoint["ema_state_dict"])
        assert torch.isfinite(torch.tensor(runner.message_hub.get_scalar("train/loss").data[0])).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("precision", [None, "bf16", "fp16"])
def test_automatic_mixed_precision(precision, teacher, tmp_path):
    settings = {"optim_wrapper.type": "AmpOptimWrapper", "optim_wrapper.loss_scale": "dynamic"}
    settings |= {"model.teacher.precision": precision, **options(STUDENT, teacher)}
    runner = run(tmp_path, STUDENT, epochs=1, **settings)
    assert torch.isfinite(torch.tensor(runner.message_hub.get_scalar("train/loss").data[0])).all()
