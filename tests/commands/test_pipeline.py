import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from testing_helpers import REPOSITORY

from mmkdprune.commands.pipeline import plan_phases
from mmkdprune.commands.run_log import read_accuracies
from mmkdprune.commands.train_pipeline import command_of
from mmkdprune.config.comparison import settings_hash
from mmkdprune.engine.speed import DEFAULTS
from mmkdprune.errors import UsageError

CONFIGS = REPOSITORY / "configs" / "hsakd"
STUDENT = CONFIGS / "hsakd_resnet20_resnet8_1xb64-12e_digits-16px.py"
TEACHER_STEM = "hsakd-teacher_resnet20_1xb64-12e_digits-16px"


def test_a_frozen_teacher_makes_three_runs():
    config = CONFIGS / "hsakd-frozen_wrn-40-2_wrn-16-2_1xb64-240e_cifar100.py"
    phases = plan_phases(str(config), ["randomness.seed=3", "model.loss.temperature=2."], Path("runs"))
    stems = [
        "plain_wrn-40-2_1xb64-240e_cifar100",
        "hsakd-teacher-frozen_wrn-40-2_1xb64-100e_cifar100",
        "hsakd-frozen_wrn-40-2_wrn-16-2_1xb64-240e_cifar100",
    ]
    assert [phase.stem for phase in phases] == stems
    assert [phase.work_dir for phase in phases] == [Path("runs") / stem for stem in stems]
    assert [phase.length for phase in phases] == [("epoch", 240), ("epoch", 100), ("epoch", 240)]
    assert phases[0].options == ["randomness.seed=3"]
    assert phases[1].options[-1] == f"model.pretrained.checkpoint=runs/{stems[0]}/epoch_240.pth"
    assert phases[2].config.model.teacher.checkpoint == f"runs/{stems[1]}/epoch_100.pth"
    assert phases[2].config.model.loss.temperature == 2
    assert all(phase.config.randomness.seed == 3 for phase in phases)


def test_a_given_teacher_and_a_config_without_one_make_one_run():
    assert len(plan_phases(str(STUDENT), ["model.teacher.checkpoint=there.pth"], Path())) == 1
    assert len(plan_phases(str(CONFIGS / "plain_resnet8_1xb64-12e_digits-16px.py"), [], Path())) == 1


@pytest.mark.parametrize(("speed", "flags"), [(None, []), (True, ["--speed"]), (False, ["--no-speed"])])
def test_every_run_gets_the_switch(tmp_path, speed, flags):
    phases = plan_phases(str(STUDENT), [], tmp_path, speed)
    args = argparse.Namespace(gpus=1, amp=False, speed=speed, auto_scale_lr=False, debug=False, overwrite=False)
    for phase in phases:
        assert [word for word in command_of(phase, args) if word.endswith("speed") and word.startswith("--")] == flags
        assert phase.config.get("speed") == {None: None, True: DEFAULTS, False: False}[speed]


def test_configs_that_need_each_other(tmp_path):
    (tmp_path / "other").mkdir()
    for own, other in (("a", "b"), ("b", "a"), ("other/b", "b")):
        teacher = {"config": str(tmp_path / f"{other}.py"), "checkpoint": "x.pth"}
        config = Config({"model": {"type": "A", "teacher": teacher}, "train_cfg": {"max_epochs": 1}})
        config.dump(tmp_path / f"{own}.py")
    with pytest.raises(UsageError, match="need each other: a -> b -> a"):
        plan_phases(str(tmp_path / "a.py"), [], tmp_path)
    with pytest.raises(UsageError, match="both named b, and so is their folder: rename one"):
        plan_phases(str(tmp_path / "other" / "b.py"), [], tmp_path)


def save(folder: Path, config: Config, epoch: int = 2, **more: Any) -> None:
    """Write a checkpoint as a run with this config does."""
    folder.mkdir(exist_ok=True)
    torch.save({"meta": {"epoch": epoch, "iter": 9, "cfg": config.pretty_text}, **more}, folder / f"epoch_{epoch}.pth")


def changed(changes: dict[str, Any]) -> Config:
    config = Config.fromfile(CONFIGS / f"{TEACHER_STEM}.py")
    config.merge_from_dict({"train_cfg.max_epochs": 2, **changes})
    return config


def test_progress_of_a_run(tmp_path):
    teacher, student = plan_phases(str(STUDENT), ["train_cfg.max_epochs=2"], tmp_path)
    assert not teacher.is_started()
    assert not teacher.is_done()
    save(teacher.work_dir, changed({}), epoch=1)
    assert teacher.is_started()
    assert not teacher.is_done()
    save(teacher.work_dir, changed({}))
    assert teacher.is_done()
    assert not student.is_done()


# What --amp, another machine and training itself change makes no other run.
SAME = {
    "optim_wrapper.type": "AmpOptimWrapper",
    "optim_wrapper.loss_scale": "dynamic",
    "train_dataloader.num_workers": 3,
    "train_dataloader.dataset.data_root": "elsewhere",
    "custom_hooks": [{"type": "mmkdprune.ChannelsLastHook"}, {"type": "mmkdprune.CheckClassesHook"}],
}
OTHER = [
    ("optim_wrapper.optimizer.lr", 0.5, r"optim_wrapper.optimizer.lr: 0.5 there, 0.05 here"),
    ("train_dataloader.dataset.indices", 64, r"train_dataloader.dataset.indices: 64 there, None here"),
    ("custom_hooks", [{"type": "EMAHook"}], r"custom_hooks"),
    ("model.branch_type", "conv", r"model.branch_type: 'conv' there, None here"),
]


@pytest.mark.parametrize("hashed", [True, False], ids=["hash", "without"])
def test_a_run_with_other_settings_is_refused(tmp_path, hashed):
    teacher, _ = plan_phases(str(STUDENT), ["train_cfg.max_epochs=2"], tmp_path)

    def run(changes: dict[str, Any]) -> None:
        config = changed(changes)
        more = {"mmkdprune": {"settings_hash": settings_hash(config)}} if hashed else {}
        save(teacher.work_dir, config, **more)

    run(SAME)
    assert teacher.is_done()
    for setting, value, message in OTHER:
        run({setting: value})
        with pytest.raises(UsageError, match=rf"other settings \({message}"):
            teacher.is_done()


def test_what_became_of_the_settings_does_not_matter(tmp_path):
    """A run is recognised by what it was asked for, if its checkpoint holds that."""
    teacher, _ = plan_phases(str(STUDENT), ["train_cfg.max_epochs=2"], tmp_path)
    rewritten = changed({"train_dataloader.sampler.type": "SamplerOfThatMachine"})
    save(teacher.work_dir, rewritten, mmkdprune={"settings_hash": settings_hash(changed({}))})
    assert teacher.is_done()
    save(teacher.work_dir, rewritten)
    with pytest.raises(
        UsageError, match=r"other settings \(train_dataloader.sampler.type: 'SamplerOfThatMachine' there"
    ):
        teacher.is_done()


@pytest.mark.parametrize("hashed", [True, False], ids=["hash", "without"])
def test_configs_that_name_classes(tmp_path, hashed):
    """MMEngine's newer form of configs, which import what they name."""
    config = tmp_path / "new.py"
    config.write_text(
        "from mmengine.dataset import DefaultSampler\n"
        "from mmpretrain.models import ImageClassifier, LinearClsHead, ResNet_CIFAR\n"
        "backbone = dict(type=ResNet_CIFAR, depth=18)\n"
        "model = dict(type=ImageClassifier, backbone=backbone, head=dict(type=LinearClsHead))\n"
        "train_cfg = dict(by_epoch=True, max_epochs=2)\n"
        "train_dataloader = dict(sampler=dict(type=DefaultSampler, shuffle=True))\n"
    )
    (phase,) = plan_phases(str(config), [], tmp_path / "runs")
    phase.work_dir.mkdir(parents=True)
    found = Config.fromfile(config)
    save(phase.work_dir, found, **({"mmkdprune": {"settings_hash": settings_hash(found)}} if hashed else {}))
    assert phase.is_done()
    (other,) = plan_phases(str(config), ["model.backbone.depth=34"], tmp_path / "runs")
    with pytest.raises(UsageError, match=r"model.backbone.depth: 18 there, 34 here"):
        other.is_done()


def test_a_run_without_its_final_checkpoint_is_refused(tmp_path):
    teacher, _ = plan_phases(str(STUDENT), [], tmp_path)
    with pytest.raises(UsageError, match=r"without writing .*epoch_12.pth.*by_epoch=True"):
        teacher.check_final_checkpoint()


@pytest.mark.parametrize(
    ("options", "message"), [(["seed"], "takes key=value, got 'seed'"), ([], "no config absent.py")]
)
def test_bad_input(options, message):
    with pytest.raises(UsageError, match=message):
        plan_phases("absent.py" if not options else str(STUDENT), options, Path())


FEW = ["train_dataloader.dataset.indices=64", "val_dataloader.dataset.indices=32", "train_dataloader.batch_size=32"]


def arguments(*more: str) -> list[str]:
    return [
        "train_pipeline.py",
        str(STUDENT),
        "--work-dir",
        "runs",
        *more,
        "--cfg-options",
        *FEW,
        "train_cfg.max_epochs=2",
    ]


@pytest.mark.slow
def test_both_runs_then_on_from_any_point(tmp_path, call, commands_inside, monkeypatch):
    """Two processes for a run, and the same command again after each kind of interruption."""
    monkeypatch.chdir(tmp_path)
    teacher, student = (tmp_path / "runs" / name for name in (TEACHER_STEM, STUDENT.stem))

    def pipeline() -> str:
        commands_inside.clear()
        code, output = call(*arguments())
        assert code == 0, output[-4000:]
        return output

    # the student is not started yet
    code, output = call("train_pipeline.py", CONFIGS / f"{TEACHER_STEM}.py", *arguments()[2:])
    assert code == 0, output[-4000:]
    # the tool as users run it, with both
    name, *words = arguments("--gpus", "2")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "tools" / name), *words],
        env={**environment, "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    output = done.stdout
    assert done.returncode == 0, output[-4000:]
    assert output.count("done already") == output.count(" on cpu, 2 processes") == 1
    assert f"loaded from runs/{TEACHER_STEM}/epoch_2.pth" in output
    assert "% at the end" in output
    for phase in plan_phases(str(STUDENT), [*FEW, "train_cfg.max_epochs=2"], Path("runs")):
        saved = torch.load(phase.final_checkpoint, weights_only=False)["mmkdprune"]
        assert saved["settings_hash"] == settings_hash(phase.config)
    before = (student / "epoch_2.pth").stat().st_mtime_ns
    assert pipeline().count("done already") == 2
    assert (student / "epoch_2.pth").stat().st_mtime_ns == before
    # the student was interrupted after its first epoch
    (student / "epoch_2.pth").unlink()
    (student / "last_checkpoint").write_text(str(student / "epoch_1.pth"))
    output = pipeline()
    assert output.count("done already") == 1
    assert "resumed epoch: 1" in output
    assert len(read_accuracies(student)) == 2
    # the teacher was interrupted, and the student was not started
    for path in (teacher / "epoch_2.pth", *student.glob("*.pth")):
        path.unlink()
    (teacher / "last_checkpoint").write_text(str(teacher / "epoch_1.pth"))
    assert "resumed epoch: 1" in pipeline()
    assert [("--resume" in command) for command in commands_inside] == [True, False]
    assert (student / "epoch_2.pth").is_file()


def test_mistakes_are_one_message(call):
    code, output = call("train_pipeline.py", "absent.py")
    assert code == 1
    assert output.strip().startswith("error: there is no config absent.py")
