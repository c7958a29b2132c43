"""Every config builds, takes a training step, and agrees with its metafile and its plain twin."""

import math
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from testing_helpers import REPOSITORY, count_parameters

CONFIGS = sorted(path for path in (REPOSITORY / "configs").rglob("*.py") if "_base_" not in path.parts)
TRAIN_ONLY = ("branches", "self_teacher", "discriminators")


def models_of(metafile: Path) -> dict[str, dict]:
    return {model["Config"]: model for model in yaml.safe_load(metafile.read_text())["Models"]}


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


def build(path: Path) -> tuple[Config, torch.nn.Module]:
    config = Config.fromfile(path)
    init_default_scope(config.default_scope)
    return config, MODELS.build({**config.model, "data_preprocessor": config.data_preprocessor})


def test_trains_and_has_the_parameters_of_its_metafile(path):
    config, model = build(path)
    entry = models_of(path.parent / "metafile.yml")[str(path.relative_to(REPOSITORY))]
    assert entry["Name"] == path.stem
    assert count_parameters(model.backbone, model.head) == entry["Metadata"]["Parameters"]
    if model.__class__.__name__ != "ImageClassifier":
        assert count_parameters(model) == entry["Metadata"]["Training Parameters"]
    assert config.train_cfg.max_epochs == entry["Metadata"]["Epochs"]
    gpus, batch_size = path.stem.split("_")[2].split("-")[0].split("xb")
    assert config.train_dataloader.batch_size == int(batch_size)
    assert config.auto_scale_lr.base_batch_size == int(gpus) * int(batch_size) == entry["Metadata"]["Batch Size"]

    images = list(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))
    samples = [DataSample().set_gt_label(label) for label in (0, config.model.head.num_classes - 1)]
    batch = model.data_preprocessor({"inputs": images, "data_samples": samples}, training=True)
    total, _ = model.parse_losses(model.train()(**batch, mode="loss"))
    total.backward()
    assert total.isfinite()


@pytest.mark.parametrize("path", [path for path in CONFIGS if not path.stem.startswith("plain_")], ids=lambda p: p.stem)
def test_differs_from_its_plain_twin_in_model_and_pruning_only(path):
    method = path.stem.split("_")[0]
    config, twin = Config.fromfile(path), Config.fromfile(path.with_name(path.name.replace(method, "plain", 1)))
    for name in ("backbone", "neck", "head"):
        assert config.model[name] == twin.model[name]
    for part in (config, twin):
        part.pop("model")
        hooks = part.get("custom_hooks", [])
        part.custom_hooks = [hook for hook in hooks if hook.type != "mmkdprune.FilterPruningHook"]
    assert config.pretty_text == twin.pretty_text


def test_metafiles_name_existing_configs_and_are_indexed():
    index = yaml.safe_load((REPOSITORY / "model-index.yml").read_text())["Import"]
    metafiles = sorted((REPOSITORY / "configs").rglob("metafile.yml"))
    assert sorted(index) == [str(metafile.relative_to(REPOSITORY)) for metafile in metafiles]
    named = [config for metafile in metafiles for config in models_of(metafile)]
    assert sorted(named) == [str(config.relative_to(REPOSITORY)) for config in CONFIGS]


def test_inherited_from_another_folder(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("_base_ = 'mmkdprune::mixskd/mixskd_resnet18_1xb64-205e_cifar100.py'\nmodel = dict(alpha=0.2)\n")
    config = Config.fromfile(mine)
    assert (config.model.type, config.model.alpha) == ("mmkdprune.MixSKD", 0.2)
    assert get_config("mmkdprune::mixskd/mixskd_resnet18_1xb64-205e_cifar100.py").model.alpha == 0.4


@pytest.mark.parametrize(
    ("name", "images", "gpus"),
    [
        ("mixskd_resnet20_1xb64-20e_digits-16px", 1_433, 1),
        ("mixskd_resnet18_1xb64-205e_cifar100", 50_000, 1),
        ("mixskd_resnet50_8xb16-305e_in1k", 1_281_167, 8),
    ],
)
def test_warm_up_is_linear_from_the_first_iteration(name, images, gpus):
    config = Config.fromfile(REPOSITORY / "configs" / "mixskd" / f"{name}.py")
    iterations = math.ceil(math.ceil(images / gpus) / config.train_dataloader.batch_size)
    warm_up = config.param_scheduler[0]
    assert warm_up.start_factor == pytest.approx(1 / (warm_up.end * iterations), rel=1e-9)
