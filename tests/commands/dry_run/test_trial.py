"""``tools/train.py --dry-run`` on a config of each family, on a faked ImageNet, and on what would fail later."""

import os
import tempfile

import pytest
import torch
from downstream_models import detector, segmentor
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image
from testing_helpers import REPOSITORY, build_model, network, save_weights
from toy_run import make_runner

from mmkdprune.commands.descriptions import duration, parameter_lines
from mmkdprune.commands.dry_run import report
from mmkdprune.commands.dry_run import trial as module
from mmkdprune.commands.dry_run.report import describe_shape, report_lines
from mmkdprune.commands.dry_run.trial import DryRunError, dry_run

DIGITS = "{}_1xb64-{}_digits-16px.py"
SMALL = (
    *("train_dataloader.dataset.indices=64", "train_dataloader.batch_size=16"),
    *("val_dataloader.dataset.indices=16", "val_dataloader.batch_size=8"),
)
TITLES = ("training", "validation", "model", "parameters", "optimizer", "losses", "memory", "time", "hooks", "saves")


@pytest.fixture
def dry(call, tmp_path, monkeypatch):
    """Dry-run a config in an empty folder; returns the exit code, what was printed, and the titled lines of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", None)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(module, "TIMED_SECONDS", 0.0)

    def run(config, *options, overrides=()):
        given = ["--cfg-options", *SMALL, *overrides] if str(config).startswith(str(REPOSITORY)) else []
        code, output = call("train.py", config, "--dry-run", *options, *given)
        assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".py") == ["temporary"]
        assert not list(temporary.glob("mmkdprune*"))
        rows: dict[str, str] = {}
        title = ""
        for line in output.splitlines():
            title = line.partition("  ")[0] or title
            rows[title] = rows.get(title, "") + line.partition("  ")[2].strip() + "\n"
        return code, output, rows

    yield run
    tempfile.tempdir = None


def digits(folder, network, schedule):
    return REPOSITORY / "configs" / folder / DIGITS.format(network, schedule)


@pytest.mark.parametrize(
    ("config", "extra", "parts"),
    [
        (digits("mixskd", "mixskd_resnet20", "20e"), [], {"parameters": "train-only 503,012", "losses": "loss_disc"}),
        (
            digits("hssakd", "hssakd-x2_resnet8", "12e"),
            ["default_hooks.checkpoint.save_best=peer1/top1"],
            {"parameters": "peers", "saves": "best_*.pth by peer1/top1"},
        ),
        (digits("mcl", "mcl-x2_resnet8", "12e-pairs"), [], {"losses": "loss_soft_icl"}),
        (digits("lmcl", "lmcl-x2_resnet8", "12e-pairs"), [], {"parameters": "are frozen", "hooks": "MetaStepHook"}),
        (digits("pruning", "ghfp-asrfp_resnet20", "20e"), [], {"saves": "pruning_report.json", "hooks": "FilterPrun"}),
    ],
    ids=["mixskd", "hssakd", "mcl", "lmcl", "pruning"],
)
@pytest.mark.usefixtures("one_thread")
def test_each_family(dry, config, extra, parts):
    code, output, rows = dry(config, overrides=extra)
    assert code == 0, output
    assert output.endswith("dry run: all of this works; nothing was written\n")
    for title in TITLES:
        assert rows[title].strip(), title
    for title, part in parts.items():
        assert part in rows[title]
    epochs = config.stem.split("_")[2].split("-")[1].removesuffix("e")
    assert f"; {epochs} epochs, " in rows["time"]
    assert f"work_dirs/{config.stem}/epoch_N.pth every epoch, the last 2 kept" in rows["saves"]
    assert "head (8, 10)" in rows["shapes in validation"]
    assert "accuracy/top1" in rows["metrics"]


@pytest.mark.usefixtures("one_thread")
def test_a_teacher_and_its_student(dry, tmp_path):
    config = digits("hsakd", "hsakd_resnet20_resnet8", "12e")
    code, output, _ = dry(config)
    assert code == 1
    assert "error: teacher.checkpoint: there is no file" in output
    teacher = build_model("mmkdprune.HSAKD", phase="teacher", **network(20))
    (tmp_path / "temporary.py").mkdir()  # beside what the test looks at
    checkpoint = save_weights(teacher, tmp_path / "temporary.py" / "teacher.pth")
    code, output, rows = dry(config, overrides=[f"model.teacher.checkpoint={checkpoint}"])
    assert code == 0, output
    assert "teacher " in rows["parameters"]
    assert "(frozen, not in the checkpoints)" in rows["parameters"]
    assert "loss_joint_kd" in rows["losses"]


@pytest.mark.usefixtures("one_thread")
def test_images_of_imagenet(dry, tmp_path, monkeypatch):
    """The stock pipeline, network and schedule on the same made-up image of every class."""
    root = tmp_path / "imagenet.py"
    root.mkdir()
    Image.new("RGB", (64, 48), (100, 50, 0)).save(root / "image.jpeg")
    for folder in (root / part / f"{number:04d}" for part in ("train", "val") for number in range(1000)):
        folder.mkdir(parents=True)
        (folder / "image.JPEG").hardlink_to(root / "image.jpeg")
    loaders = [
        f"{part}_dataloader.{key}"
        for part in ("train", "val")
        for key in (f"dataset.data_root={root}", "batch_size=2", "num_workers=0", "persistent_workers=False")
    ]
    config = REPOSITORY / "configs/mixskd/plain_resnet50_8xb16-305e_in1k.py"
    loaders = [*loaders, "model.backbone.depth=18", "model.head.in_channels=512"]
    code, output, rows = dry(config, overrides=[*loaders, "train_dataloader.dataset.indices=None"])
    assert code == 0, output
    assert "ImageNet, 1,000 samples, 500 batches of 2" in rows["training"]
    assert "data_preprocessor inputs (2, 3, 224, 224)" in rows["shapes in training"]
    assert "head (2, 1000)" in rows["shapes in validation"]
    # fast as shipped, and the run says so
    for line in ("channels_last: on (ChannelsLastHook)", "fused_optimizer: on (SGD)", "deferred_logging: on"):
        assert f"speed.{line}" in output
    code, output, _ = dry(config, overrides=[*loaders, f"train_dataloader.dataset.data_root={root}/absent"])
    assert code == 1
    assert f"are not there: {root}/absent" in output


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model.head.in_channels=63"],
            r"error: the first training steps failed: RuntimeError: mat1 and mat2 shapes cannot be multiplied",
        ),
        (["model.backbone.type=ResNett"], "error: ResNett is not in the"),
        (["default_hooks.checkpoint.save_best=accuracy/top5"], "error: CheckpointHook.save_best names 'accuracy/top5'"),
    ],
    ids=["channels", "type", "best"],
)
@pytest.mark.usefixtures("one_thread")
def test_mistakes_are_one_message(dry, overrides, message):
    code, output, _ = dry(digits("mixskd", "plain_resnet20", "20e"), overrides=overrides)
    assert code == 1, output
    assert message in output
    assert "Traceback" not in output
    if "failed" in message:  # how far the tensors had come
        assert "backbone (16, 64, 4, 4); neck (16, 64)" in output


def test_a_work_dir_that_cannot_be_made(dry, tmp_path):
    (tmp_path / "file.py").write_text("")
    code, output, _ = dry(digits("mixskd", "plain_resnet20", "20e"), "--work-dir", tmp_path / "file.py" / "run")
    assert code == 1
    assert f"cannot be made: {tmp_path / 'file.py'} is a file" in output


@pytest.mark.usefixtures("one_thread")
def test_accumulation_averages_and_a_resumed_run(dry, tmp_path, call):
    base = digits("mixskd", "plain_resnet20", "20e")
    config = tmp_path / "run.py"
    config.write_text(
        f"_base_ = '{base}'\ntrain_cfg = dict(max_epochs=2)\n"
        "train_dataloader = dict(batch_size=8, dataset=dict(indices=24))\n"
        "val_dataloader = dict(dataset=dict(indices=8))\n"
        "optim_wrapper = dict(accumulative_counts=3)\ncustom_hooks = [dict(type='EMAHook')]\n"
    )
    work_dir = tmp_path / "work.py"  # beside what the test looks at
    assert call("train.py", config, "--work-dir", work_dir, "--cfg-options", "train_cfg.max_epochs=1")[0] == 0
    before = {path: path.stat().st_mtime_ns for path in work_dir.rglob("*")}
    code, output, _ = dry(config, "--work-dir", work_dir)
    assert (code, "--resume" in output) == (1, True)  # as the run itself would be refused
    code, output, rows = dry(config, "--work-dir", work_dir, "--resume")
    assert code == 0, output
    assert "a step every 3 batches" in rows["optimizer"]
    assert "averaged weights (EMAHook)" in rows["saves"]
    assert "3 of 6 iterations" in rows["time"]
    assert {path: path.stat().st_mtime_ns for path in work_dir.rglob("*")} == before


@pytest.mark.parametrize(("package", "make"), [("mmdet", detector), ("mmseg", segmentor)])
@pytest.mark.usefixtures("one_thread")
def test_detectors_and_segmentors(tmp_path, package, make):
    pytest.importorskip(f"{package}.utils").register_all_modules(init_default_scope=True)
    config = Config(
        {
            "model": make(),
            "work_dir": str(tmp_path / "run"),
            "train_dataloader": {
                "dataset": {"type": "mmengine.ToyScenes", "kind": package},
                "batch_size": 2,
                "sampler": {"type": "InfiniteSampler", "shuffle": True},
            },
            "train_cfg": {"by_epoch": False, "max_iters": 90},
            "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.01}},
            "default_hooks": {"checkpoint": {"type": "CheckpointHook", "interval": 30, "by_epoch": False}},
            "custom_hooks": [{"type": "mmkdprune.FilterPruningHook", "pruner": {"method": "sfp", "rate": 0.4}}],
            "default_scope": package,
            "experiment_name": f"dry_{package}",
        }
    )
    text = "\n".join(dry_run(config, Runner.from_cfg))
    assert f"{type(config.model).__name__}" not in text
    for part in (config.model["type"], "backbone [(2, 64, ", "90 iterations", "iter_N.pth every 30 iters, all kept"):
        assert part in text
    assert list(tmp_path.iterdir()) == []


def test_no_space_and_odd_losses_are_named(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(report.shutil, "disk_usage", lambda folder: usage)
    runner = make_runner(tmp_path / "temporary")
    runner.model.body[0].weight.data.fill_(float("nan"))
    monkeypatch.setattr(runner.model, "init_weights", lambda: None)
    text = "\n".join(report_lines(runner, module.run_trial(runner), Config({"work_dir": str(tmp_path / "run")})))
    assert "WARNING: 2 checkpoints need" in text
    assert "the first step's loss is not a finite number" in text
    assert f"{tmp_path / 'run'}/epoch_N.pth every 2 epochs, all kept" in text


def test_a_folder_without_rights(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("everything is writable for the administrator")
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    with pytest.raises(DryRunError, match="is not writable"):
        dry_run(Config({"work_dir": str(folder / "run")}), Runner.from_cfg)


@pytest.mark.parametrize(("name", "extra"), [("MoCo", "encoder_k"), ("mmkdprune.MoCoMCL", "peers")])
def test_what_is_deployed_of_a_model_without_labels(name, extra):
    neck = {"type": "LinearNeck", "in_channels": 64, "out_channels": 8, "gap_dim": 2, "norm_cfg": None}
    head = {"type": "ContrastiveHead", "temperature": 0.07, "loss": {"type": "CrossEntropyLoss"}}
    options = {"queue_len": 16, "feat_dim": 8}
    model = build_model(name, backbone=network(8)["backbone"], neck=neck, head=head, **options)
    deployable, train_only, _ = parameter_lines(model)
    size = f"{sum(parameter.numel() for parameter in model.backbone.parameters()):,}"
    assert deployable == f"deployable {size} (backbone {size})"
    assert extra in train_only


def test_words():
    assert [duration(seconds) for seconds in (3.6, 70, 7260, 200_000)] == ["4 s", "1 min 10 s", "2 h 1 min", "2 d 7 h"]
    pair = (torch.zeros(2, 3), torch.zeros(2, 3))
    assert describe_shape(pair) == "[(2, 3), (2, 3)]"
    assert describe_shape([*pair, *pair]) == "[(2, 3) x4]"
    assert describe_shape({"inputs": pair[:1], "names": ["a"]}) == "inputs (2, 3)"
    assert describe_shape(None) == "-"
