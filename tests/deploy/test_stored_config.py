import copy
import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS
from torch import nn

from mmkdprune.deploy.backbone import load_trained_backbone, with_random_weights
from mmkdprune.deploy.export import export_checkpoint
from mmkdprune.deploy.network import build_network, describe, load_deployable
from mmkdprune.deploy.stored_config import (
    UnsafeConfigError,
    build_stored,
    checked_config,
    refuse_unknown_packages,
    registered_only,
)
from mmkdprune.deploy.transfer import transfer_backbone
from mmkdprune.pruning import PlanError

MODEL = {
    "type": "mmpretrain.ImageClassifier",
    "backbone": {"type": "mmkdprune.CifarResNet", "depth": 8},
    "neck": {"type": "mmpretrain.GlobalAveragePooling"},
    "head": {
        "type": "mmpretrain.LinearClsHead",
        "num_classes": 3,
        "in_channels": 64,
        "loss": {"type": "mmpretrain.CrossEntropyLoss", "loss_weight": 1.0},
    },
    "data_preprocessor": {"type": "mmpretrain.ClsDataPreprocessor", "mean": [1.0], "std": [2.0]},
}
FIELDS = {
    "backbone": "model.backbone.type",
    "backbone.norm_cfg": "model.backbone.norm_cfg.type",
    "backbone.plugins": "model.backbone.plugins.0.cfg.type",
    "neck": "model.neck.type",
    "head": "model.head.type",
    "head.loss": "model.head.loss.type",
    "data_preprocessor": "model.data_preprocessor.type",
}
TOOLS = {
    "export_backbone.py": [],
    "export_onnx.py": [],
    "linear_probe.py": ["--data", "digits-16px", "--fast"],
    "knn.py": ["--data", "digits-16px"],
    "few_shot.py": ["--data", "digits"],
    "analyze/embeddings.py": ["--data", "digits-16px"],
    "analyze/cohort_similarity.py": ["--data", "digits-16px"],
}


def changed(field: str, value) -> dict:
    """The model with one part replaced."""
    model = copy.deepcopy(MODEL)
    owner, _, last = field.rpartition(".")
    part = model[owner] if owner else model
    part[last] = [{"cfg": value}] if last == "plugins" else value
    return model


@pytest.fixture(scope="module")
def weights():
    return build_network(MODEL).state_dict()


@pytest.fixture
def save(tmp_path, weights):
    """Write a model as a run's checkpoint and as an exported file."""

    def save_both(model, **more) -> list[Path]:
        text = Config({"default_scope": "mmpretrain", "model": model, **more}).pretty_text
        for name, meta in (("run", {"cfg": text, "epoch": 1}), ("export", {"model": model})):
            torch.save({"state_dict": weights, "meta": meta}, tmp_path / f"{name}.pth")
        return [tmp_path / "run.pth", tmp_path / "export.pth"]

    return save_both


@pytest.mark.parametrize("field", FIELDS)
def test_code_in_any_field_is_refused_by_name(save, tmp_path, field):
    mark = tmp_path / "code_was_run"
    call = {"type": "os.mkdir", "path": str(mark), "name": str(mark)}
    for file in save(changed(field, call)):
        for rebuild in (load_deployable, lambda path: export_checkpoint(path, part="classifier")):
            with pytest.raises(UnsafeConfigError) as caught:
                rebuild(file)
            assert f"{FIELDS[field]}='os.mkdir'" in str(caught.value)
        for rebuild in (load_trained_backbone, export_checkpoint):  # heads are refused by name, though not rebuilt
            with pytest.raises(UnsafeConfigError, match=r"os\.mkdir"):
                rebuild(file)
        assert not mark.exists()


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_that_rebuilds_refuses(save, tmp_path, call, monkeypatch, tool):
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / "code_was_run"
    for file in save(changed("backbone", {"type": "os.mkdir", "path": str(mark)})):
        code, text = call(tool, file, *TOOLS[tool])
        assert code == 1, text
        assert "error: the config stored in the file is refused: model.backbone.type='os.mkdir'" in text
        assert not mark.exists()


def test_the_same_file_with_registered_names_works(save):
    for file in save(MODEL):
        network, _ = load_deployable(file)
        assert network(torch.rand(1, 3, 16, 16)).shape == (1, 3)
        evaluated = load_trained_backbone(file)
        assert evaluated.settings == {"type": "mmkdprune.CifarResNet", "depth": 8}
        assert with_random_weights(evaluated, 1).source == "random initialisation"
        assert export_checkpoint(file, file.with_suffix(""), part="classifier").report.missing == []


def test_other_places_of_a_run(save, tmp_path):
    """What is not rebuilt is not read either: data, hooks and imports may name anything, and nothing is run."""
    mark = tmp_path / "code_was_run"
    call = {"type": "os.mkdir", "path": str(mark)}
    loader = {"dataset": {"type": "CustomDataset", "pipeline": [call]}, "sampler": call}
    more = {"train_dataloader": loader, "custom_hooks": [call], "custom_imports": {"imports": ["antigravity"]}}
    load_deployable(save(MODEL, **more)[0])
    for model in ({**MODEL, "type": "os.mkdir"}, {**MODEL, "teacher": call}, {**MODEL, "_scope_": "antigravity"}):
        with pytest.raises(UnsafeConfigError, match=r"os.mkdir|antigravity"):
            load_deployable(save(model)[0])
    # An algorithm of a package that is not installed is not needed, and not imported.
    assert load_deployable(save({**MODEL, "type": "mmrazor.NoSuchAlgorithm"})[0])
    peers = {**MODEL, "peers": [{"backbone": call}]}
    with pytest.raises(UnsafeConfigError, match=r"model.peers.0.backbone.type='os.mkdir'"):
        describe(torch.load(save(peers)[0]), tmp_path, "backbone", "saved", peer=1)
    assert not mark.exists()


def test_transfer_rebuilds_nothing_and_says_so(save, tmp_path):
    mark = tmp_path / "code_was_run"
    config = Config({"default_scope": "mmpretrain", "model": copy.deepcopy(MODEL)})
    for file in save(changed("backbone", {"type": "os.mkdir", "path": str(mark)})):
        notes = transfer_backbone(file, config).notes
        assert any("os.mkdir" in note for note in notes)
    assert not mark.exists()


def test_a_config_of_the_user_is_trusted(save, tmp_path):
    file = save(changed("backbone", {"type": "os.mkdir"}))[0]
    config = tmp_path / "config.py"
    config.write_text(f"default_scope = 'mmpretrain'\nmodel = {MODEL!r}\n")
    assert load_trained_backbone(file, config=str(config)).settings["depth"] == 8


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "subprocess",
        "antigravity.registry",
        "torch.load",
        "torch.nn.Bilinear",
        "mmengine.Config.fromfile",
        "mmpretrain.models.build_backbone",
        "mmpretrain.ByteTracker",
        "mmpretrain.CIFAR10",
        "mmpretrain.LoadImageFromFile",
        "torchvision/Compose",
        "Albu",
        ["ResNet"],
        7,
    ],
)
def test_what_is_not_a_registered_network_class(name):
    with pytest.raises(UnsafeConfigError, match=r"model\.head\.type="):
        checked_config({"head": {"type": name}}, "model")


@pytest.mark.parametrize(
    "name", ["mmpretrain.TIMMBackbone", "HuggingFaceClassifier", "TimmClassifier", "mmdet.Detectron2Wrapper"]
)
@pytest.mark.parametrize("field", ["backbone", "head.loss", "data_preprocessor"])
def test_wrappers_that_fetch_are_refused_wherever_they_are_named(name, field):
    with pytest.raises(UnsafeConfigError, match="fetches code or weights"):
        checked_config(changed(field, {"type": name}), "model")


def test_arguments_that_name_files_are_left_out():
    stored = {
        "type": "ResNet",
        "depth": 50,
        "init_cfg": {"type": "os.system"},
        "pretrained": "torchvision://resnet50",
        "checkpoint": "somewhere",
        "drop_path": 0.1,
        "norm_cfg": {"type": "BN", "class_weight": "weights.pkl", "requires_grad": True},
        "style": "pytorch",
        "teacher_config": "teacher.py",
        "names": ["mmkdprune::hsakd/x", "b"],
        "backend_args": {"backend": "petrel"},
        "out_indices": (0, 1),
    }
    before = copy.deepcopy(stored)
    assert checked_config(stored, "model.backbone") == {
        "type": "ResNet",
        "depth": 50,
        "drop_path": 0.1,
        "norm_cfg": {"type": "BN", "requires_grad": True},
        "style": "pytorch",
        "out_indices": (0, 1),
    }
    assert stored == before


def test_full_names_of_lazy_configs_are_looked_up():
    stored = {"type": "mmpretrain.models.backbones.resnet.ResNet", "norm_cfg": {"type": "torch.nn.BatchNorm2d"}}
    checked = checked_config(stored, "model.backbone")
    assert checked["type"] == "mmpretrain.ResNet"
    assert MODELS.get(checked["norm_cfg"]["type"]) is nn.BatchNorm2d


def test_types_that_are_patterns_of_module_names():
    stored = {
        "type": "LoRAModel",
        "module": {"type": "VisionTransformer", "arch": "b"},
        "targets": [{"type": ".*qkv", "rank": 4}],
    }
    assert checked_config(stored, "model.backbone") == stored


def test_data_that_are_more_than_plain():
    deep: dict = {}
    deep["a"] = deep
    for stored, message in (
        ({"x": print}, "holds a builtin_function_or_method at model.x"),
        ({"type": "ResNet", "a', 'b": 1}, "which is not a name"),
        ({"extra": {"a': print(), 'b": 1}}, "which is not a name"),
        (deep, "nested too deeply"),
    ):
        with pytest.raises(UnsafeConfigError, match=message):
            checked_config(stored, "model")
    with pytest.raises(UnsafeConfigError, match="nested too deeply"):
        refuse_unknown_packages({"teacher": deep}, "model")


def test_compact_backbone_from_a_file(tmp_path):
    compact = {"type": "mmkdprune.CompactBackbone", "backbone": "os.mkdir", "path": str(tmp_path / "code_was_run")}
    with pytest.raises(UnsafeConfigError, match=r"model.backbone.backbone='os.mkdir'"):
        checked_config(compact, "model.backbone")
    with pytest.raises(PlanError):
        checked_config({**compact, "backbone": {"type": "ResNet"}, "plan": {"format": "other"}}, "model.backbone")
    with registered_only(), pytest.raises(UnsafeConfigError, match=r"os.mkdir"):
        MODELS.build(compact)
    assert not (tmp_path / "code_was_run").exists()


def test_registries_are_guarded_while_a_network_is_built():
    for registry, name in (
        (MODELS, "os.getcwd"),
        (DATASETS, "mmpretrain.CIFAR10"),
        (MODELS, "mmpretrain.TIMMBackbone"),
    ):
        with registered_only(), pytest.raises(UnsafeConfigError):
            registry.get(name)
    with registered_only():
        assert MODELS.get("mmpretrain.ResNet").__name__ == "ResNet"
        assert MODELS.get("NoSuchClass") is None
    assert MODELS.get("os.getcwd") is os.getcwd
    assert isinstance(build_stored({"type": "mmpretrain.ImageClassifier", "backbone": MODEL["backbone"]}), nn.Module)


def test_own_classes_are_known_after_their_import(save):
    @MODELS.register_module(name="OwnBackboneOfATest")
    class OwnBackboneOfATest(nn.Module):
        """Registered by the user's package."""

    settings = {"type": "OwnBackboneOfATest"}
    try:
        for name in (settings["type"], f"mmpretrain.{settings['type']}"):
            assert checked_config({"type": name}, "model.backbone") == {"type": name}
    finally:
        del MODELS.module_dict["OwnBackboneOfATest"]
    with pytest.raises(UnsafeConfigError, match="--imports PACKAGE"):
        checked_config(settings, "model.backbone")


def test_names_in_a_file_choose_no_folder(save, weights, tmp_path):
    meta = {"model": MODEL, "experiment_name": "/somewhere/else/../name_20250102_030405"}
    file = tmp_path / "a.pth"
    torch.save({"state_dict": weights, "meta": meta}, file)
    assert export_checkpoint(file).path.parent == tmp_path
    assert export_checkpoint(file, overwrite=True).path.name.startswith("name_backbone-")
    assert "experiment_name" not in describe({"meta": meta}, file, "backbone", "saved")
