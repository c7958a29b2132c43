"""Every config builds, takes a training step, and agrees with its metafile and its plain twin."""

import copy
import functools
import math
import re
from pathlib import Path

import mmengine.config.utils
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from testing_helpers import REPOSITORY, count_parameters

from mmkdprune.commands.pipeline import plan_phases

ALL_CONFIGS = sorted(path for path in (REPOSITORY / "configs").rglob("*.py") if "_base_" not in path.parts)
# Detectors and segmentors are built by test_transfer.py.
CONFIGS = [path for path in ALL_CONFIGS if "transfer" not in path.parts]
# Digits and the images of 16 pixels are this project's own problems, with schedules of their own.
PAPER_CONFIGS = [path for path in CONFIGS if "digits" not in path.stem and "16px" not in path.stem]


# What a method is compared with: the same network without it. One network that learns without labels is MoCo.
TWINS = ("plain_", "moco_", "moco-mlp_")


@pytest.fixture(autouse=True, scope="module")
def _metafiles_are_read_once():
    """MMEngine reads all metafiles of a package, for seconds, for each config named as one of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmengine.config.utils, "load", functools.cache(mmengine.config.utils.load))
        yield


@functools.cache
def read(path: Path) -> Config:
    """Each config is read once for all tests, which takes up to seconds; no test changes what it gets."""
    return Config.fromfile(path)


@functools.cache
def models_of(metafile: Path) -> dict[str, dict]:
    return {model["Config"]: model for model in yaml.safe_load(metafile.read_text())["Models"]}


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


def build(path: Path) -> tuple[Config, torch.nn.Module]:
    config = read(path)
    init_default_scope(config.default_scope)
    model = {**config.model, "data_preprocessor": config.data_preprocessor}
    return config, MODELS.build(copy.deepcopy(model))  # what is built may take settings out of its own


def test_trains_and_has_the_parameters_of_its_metafile(path):
    config, model = build(path)
    entry = models_of(path.parent / "metafile.yml")[str(path.relative_to(REPOSITORY))]
    assert entry["Name"] == path.stem
    assert count_parameters(model.backbone, model.head) == entry["Metadata"]["Parameters"]
    if model.__class__.__name__ != "ImageClassifier":
        assert count_parameters(model) == entry["Metadata"]["Training Parameters"]
    assert config.train_cfg.max_epochs == entry["Metadata"]["Epochs"]
    gpus, batch_size = re.search(r"_(\d+)xb(\d+)-", path.stem).groups()
    assert config.train_dataloader.batch_size == int(batch_size)
    assert config.auto_scale_lr.base_batch_size == int(gpus) * int(batch_size) == entry["Metadata"]["Batch Size"]

    images = list(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))
    if config.data_preprocessor.get("type") == "SelfSupDataPreprocessor":
        take_unlabelled_step(model, torch.stack(images))
        return
    labels = (0, config.model.head.num_classes - 1)
    samples = [DataSample(metainfo={"sample_idx": i}).set_gt_label(label) for i, label in enumerate(labels)]
    batch = model.data_preprocessor({"inputs": images, "data_samples": samples}, training=True)
    if getattr(model, "teacher", None) is not None:
        model.teacher.is_loaded = True  # its random weights do
    if getattr(model, "needs_training_labels", False):
        model.set_training_labels(labels)
    total, _ = model.parse_losses(model.train()(**batch, mode="loss"))
    total.backward()
    assert total.isfinite()


def take_unlabelled_step(model: torch.nn.Module, images: torch.Tensor) -> None:
    model.num_groups = 1  # of two images
    batch = model.data_preprocessor({"inputs": [images, images.flip(3)], "data_samples": []}, training=True)
    total, _ = model.parse_losses(model.train()(**batch, mode="loss"))
    total.backward()
    assert total.isfinite()


def test_configs_of_real_images_are_fast_as_shipped(path):
    """One field has all of it, so that ``speed=False`` leaves nothing on."""
    config = read(path)
    names = [hook.type for hook in config.get("custom_hooks", [])]
    if re.search("_(digits|omniglot)-", path.stem):
        assert "speed" not in config  # stored results are those of these settings
    else:
        assert config.speed == Config.fromfile(REPOSITORY / "configs/_base_/safe_speed.py").speed
        assert "mmkdprune.ChannelsLastHook" not in names


def twin_of(path: Path) -> Path | None:
    """The plain config that a config inherits from, directly or by way of another method's."""
    base = re.match(r"_base_ = '(\S+)'", path.read_text())
    if base is None:
        return None
    parent = path.parent / base[1]
    return parent if parent.stem.startswith(TWINS) else twin_of(parent)


def test_every_method_has_a_plain_twin_but_branches_on_a_frozen_teacher():
    methods = [path for path in CONFIGS if not path.stem.startswith(TWINS)]
    without = {path.stem.split("_")[0] for path in methods if twin_of(path) is None}
    assert without == {"hsakd-teacher-frozen", "linear"}


@pytest.mark.parametrize(
    "path",
    [path for path in CONFIGS if not path.stem.startswith(TWINS) and twin_of(path)],
    ids=lambda path: path.stem,
)
def test_differs_from_its_plain_twin_in_model_and_pruning_only(path):
    config, twin = read(path), read(twin_of(path))
    for name in ("backbone", "neck", "head"):
        assert config.model[name] == twin.model[name]
    ours, theirs = (part.to_dict() for part in (config, twin))
    for part in (ours, theirs):
        part.pop("model")
        hooks = part.get("custom_hooks", [])
        part["custom_hooks"] = [hook for hook in hooks if hook["type"] != "mmkdprune.FilterPruningHook"]
    # As text, 2 and 2.0 differ; the formatted text of a config would take ten times as long to make as all else here.
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("path", [path for path in CONFIGS if "teacher=dict" in path.read_text()], ids=lambda p: p.stem)
def test_teachers_are_where_their_own_config_puts_them(path):
    """So that ``tools/train.py`` on one config after the other works without options."""
    *earlier, last = plan_phases(str(path), [], Path("work_dirs"))
    assert read(path).model.teacher.checkpoint == str(earlier[-1].final_checkpoint)
    teacher_config = Path(earlier[-1].config.filename).resolve().relative_to(REPOSITORY / "configs")
    assert last.config.model.teacher.config == f"mmkdprune::{teacher_config}"
    names = [earlier[-1].stem, path.stem]
    teacher, student = map(networks_of, names)
    assert teacher[-1] == student[0]
    if "frozen" in path.stem:
        pretrained = read(path.parent / f"{names[0]}.py").model.pretrained
        assert pretrained.checkpoint == str(earlier[0].final_checkpoint)
    # The teacher sees the student's images and is trained on all of the training set.
    assert earlier[-1].config.data_preprocessor == last.config.data_preprocessor
    assert earlier[-1].config.train_dataloader.dataset.type != "mmkdprune.StratifiedSubset"


SCHEDULES = {
    "1xb64-240e": (240, [150, 180, 210], 5e-4, True),
    "1xb64-100e": (100, [30, 60, 90], 5e-4, True),
    "8xb32-100e": (100, [30, 60, 90], 1e-4, False),
}


def networks_of(name: str) -> list[str]:
    """Teacher and student, or the only network, in a config's name."""
    return re.match(r"[^_]*_(.*?)_\d+xb", name)[1].split("_")


@pytest.mark.parametrize(
    "path",
    [path for path in PAPER_CONFIGS if path.parent.name in ("hsakd", "hssakd")],
    ids=lambda path: path.stem,
)
def test_schedules_of_hsakd_are_those_of_the_paper(path):
    config = read(path)
    (schedule,) = (value for name, value in SCHEDULES.items() if f"_{name}_" in path.stem)
    mobile = networks_of(path.stem)[-1] in ("mobilenetv2", "shufflenetv1", "shufflenetv2")
    lr = 0.1 if "in1k" in path.stem else 0.01 if mobile else 0.05
    optimizer, steps = config.optim_wrapper.optimizer, config.param_scheduler
    found = (config.train_cfg.max_epochs, steps.milestones, optimizer.weight_decay, optimizer.get("nesterov", False))
    assert found == schedule
    assert (optimizer.type, optimizer.lr, optimizer.momentum, steps.gamma) == ("SGD", lr, 0.9, 0.1)


@pytest.mark.parametrize(
    "path",
    [path for path in PAPER_CONFIGS if path.parent.name in ("mcl", "lmcl")],
    ids=lambda path: path.stem,
)
def test_settings_of_mcl_are_those_of_the_authors(path):
    config = read(path)
    model, optimizer, steps = config.model, config.optim_wrapper.optimizer, config.param_scheduler
    assert (optimizer.type, optimizer.lr, optimizer.momentum, optimizer.nesterov) == ("SGD", 0.1, 0.9, True)
    if "in1k" in path.stem:
        assert (optimizer.weight_decay, steps.milestones, config.train_cfg.max_epochs) == (1e-4, [30, 60], 90)
        assert "batch_sampler" not in config.train_dataloader
    else:
        assert (optimizer.weight_decay, steps.type, steps.T_max, steps.eta_min) == (5e-4, "CosineAnnealingLR", 300, 0)
        # ten classes fill ordinary batches with pairs
        sampler = config.train_dataloader.get("batch_sampler", {"samples_per_class": None})
        assert sampler["samples_per_class"] == (None if path.stem.endswith("_cifar10") else 2)
    if model.type == "mmkdprune.MCL":
        assert model.num_peers == int(re.match(r"mcl-x(\d)", path.stem)[1])
        assert model.get("shared_stages", 0) == (0 if model.num_peers == 2 else 2 if "in1k" in path.stem else 1)
        assert model.get("loss_weights", {}).get("loss_kd", 0) == float("-kd_" in path.stem)
    elif model.type == "mmkdprune.LayerwiseMCL":
        networks = networks_of(path.stem)
        assert len(networks) == 1 + len(model.get("peers", []))
        if len(networks) == 2:
            twin = read(path.parent.parent / "mcl" / f"plain_{networks[1]}_1xb128-300e_cifar100.py")
            assert model.peers[0] == {name: twin.model[name] for name in ("backbone", "head")}


@pytest.mark.parametrize("name", ["moco", "moco-mcl-x2", "moco-mlp", "moco-mcl-x2-mlp"])
def test_settings_of_mcl_without_labels_are_those_of_the_authors(name):
    config = read(REPOSITORY / f"configs/moco_mcl/{name}_resnet18_8xb32-200e_in1k.py")
    optimizer, steps = config.optim_wrapper.optimizer, config.param_scheduler
    assert (optimizer.type, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == ("SGD", 0.03, 0.9, 1e-4)
    assert (steps.milestones, steps.gamma, config.train_cfg.max_epochs) == ([120, 160], 0.1, 200)
    model = config.model
    assert (model.queue_len, model.feat_dim, model.momentum, model.head.temperature) == (65536, 128, 0.001, 0.07)
    assert model.num_peers == (2 if "x2" in name else 1)
    crop, grey, jitter, flip = config.view_pipeline
    assert (crop.scale, crop.crop_ratio_range, grey.prob, flip.prob) == (224, (0.2, 1.0), 0.2, 0.5)
    assert {jitter[part] for part in ("brightness", "contrast", "saturation", "hue")} == {0.4}


TITLES = {"wrn": "WRN", "resnet": "ResNet-", "vgg": "VGG-", "mobilenetv": "MobileNetV", "shufflenetv": "ShuffleNetV"}
COLUMNS = {"hsakd-teacher": 2, "kd": 4, "hsakd-frozen": 5, "hsakd": 6, "hssakd-x2": 2}
COLUMNS |= {"mcl-x2": 2, "mcl-x4": 4, "mcl-x4-kd": 5, "lmcl-x2": 2, "lmcl": 1}


@pytest.mark.parametrize("folder", ["hsakd", "hssakd", "mcl", "lmcl"])
def test_readme_has_the_papers_figures_in_the_right_places(folder):
    """The CIFAR-100 tables: WRN-40-2 is the row of wrn-40-2, and each method has its column."""
    rows = re.findall(
        r"^\| (\S+(?: → \S+)?) \| (.*) \|$", ((REPOSITORY / "configs") / folder / "README.md").read_text(), flags=re.M
    )
    checked = 0
    for entry in models_of((REPOSITORY / "configs") / folder / "metafile.yml").values():
        method, value = entry["Name"].split("_")[0], entry["Metadata"].get("Paper Results", {}).get("Top 1 Accuracy")
        if value is None or not entry["Name"].endswith("e_cifar100") or method not in COLUMNS:
            continue
        titles = [title_of(name) for name in networks_of(entry["Name"])]
        is_teacher = method == "hsakd-teacher"
        found = [cells.split(" | ") for row, cells in rows if is_row(row, titles, is_teacher) and "." in cells]
        assert found, entry["Name"]
        assert all(cells[COLUMNS[method] - 1] == f"{value:.2f}" for cells in found), entry["Name"]
        checked += 1
    assert checked == {"hsakd": 5 + 3 * 8, "hssakd": 8, "mcl": 2 * 7 + 4, "lmcl": 7 + 8}[folder]


def title_of(network: str) -> str:
    """resnet8x4 is ResNet-8x4 in the papers' tables."""
    start = max((start for start in TITLES if network.startswith(start)), key=len)
    return TITLES[start] + network.removeprefix(start)


def is_row(row: str, titles: list[str], is_teacher: bool) -> bool:
    """A teacher stands in the rows of all of its students."""
    return row.split(" → ")[0] == titles[0] if is_teacher else row == " → ".join(titles)


def test_metafiles_name_existing_configs_and_are_indexed():
    index = yaml.safe_load((REPOSITORY / "model-index.yml").read_text())["Import"]
    metafiles = sorted((REPOSITORY / "configs").rglob("metafile.yml"))
    assert sorted(index) == [str(metafile.relative_to(REPOSITORY)) for metafile in metafiles]
    named = [config for metafile in metafiles for config in models_of(metafile)]
    assert sorted(named) == sorted(str(config.relative_to(REPOSITORY)) for config in ALL_CONFIGS)


def test_inherited_from_another_folder(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("_base_ = 'mmkdprune::mixskd/mixskd_resnet18_1xb64-205e_cifar100.py'\nmodel = dict(alpha=0.2)\n")
    config = Config.fromfile(mine)
    assert (config.model.type, config.model.alpha) == ("mmkdprune.MixSKD", 0.2)
    assert get_config("mmkdprune::mixskd/mixskd_resnet18_1xb64-205e_cifar100.py").model.alpha == 0.4


@pytest.mark.parametrize(
    ("name", "images", "gpus"),
    [
        ("mixskd/mixskd_resnet20_1xb64-20e_digits-16px", 1_433, 1),
        ("mixskd/mixskd_resnet18_1xb64-205e_cifar100", 50_000, 1),
        ("mixskd/mixskd_resnet18_1xb64-205e_cifar10", 50_000, 1),
        ("mixskd/mixskd_resnet50_8xb16-305e_in1k", 1_281_167, 8),
        ("hsakd/plain_resnet8_1xb64-12e_digits-16px", 1_433, 1),
        ("mixskd/plain_resnet20_1xb64-80e_cifar100-20classes-16px", 5_000, 1),
        ("mixskd/plain_resnet20_1xb64-60e_cifar100-16px", 50_000, 1),
        ("mixskd/plain_resnet18-w16_1xb64-30e_cifar100", 50_000, 1),
    ],
)
def test_warm_up_is_linear_from_the_first_iteration(name, images, gpus):
    config = read(REPOSITORY / "configs" / f"{name}.py")
    iterations = math.ceil(math.ceil(images / gpus) / config.train_dataloader.batch_size)
    warm_up = config.param_scheduler[0]
    assert warm_up.start_factor == pytest.approx(1 / (warm_up.end * iterations), rel=1e-9)
