import hashlib
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from mmkdprune.checkpoint.finite import NonFiniteWeightsError
from mmkdprune.checkpoint.loading import CorruptCheckpointError
from mmkdprune.config.stored_text import read_config_text
from mmkdprune.deploy.backbone import load_trained_backbone
from mmkdprune.deploy.export import export_checkpoint
from mmkdprune.deploy.network import build_network, load_deployable, scoped_type, select_weights
from mmkdprune.deploy.snippets import init_cfg_snippets
from mmkdprune.errors import ExportError

MODEL = {
    "type": "ImageClassifier",
    "backbone": {"type": "ResNet", "depth": 18, "stem_channels": 8, "base_channels": 8, "init_cfg": {"type": "Foo"}},
    "neck": {"type": "GlobalAveragePooling"},
    "head": {"type": "LinearClsHead", "num_classes": 3, "in_channels": 64},
}


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    model = {key: value for key, value in MODEL.items() if key != "type"}
    model["backbone"] = {key: value for key, value in MODEL["backbone"].items() if key != "init_cfg"}
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        network = MODELS.build({"type": "ImageClassifier", **model})
    return dict(network.state_dict())


@pytest.fixture
def save(tmp_path, weights):
    """Write a checkpoint as a run would, with a train-only part, and return its path."""

    def save_checkpoint(state=None, name="epoch_2.pth", model=None, **extra):
        config = Config(
            {"default_scope": "mmpretrain", "model": model or MODEL, "data_preprocessor": {"mean": [1.5], "std": [2.0]}}
        )
        checkpoint = {
            "meta": {
                "cfg": config.pretty_text,
                "experiment_name": "plain_tiny_1xb8_toy_20250102_030405",
                "epoch": 2,
                "iter": 10,
                "seed": 7,
                "dataset_meta": {"classes": ("a", "b", "c")},
            },
            "state_dict": {**weights, "branches.0.fc.weight": torch.ones(2, 3)} if state is None else state,
            "optimizer": {},
            **extra,
        }
        path = tmp_path / name
        torch.save(checkpoint, path)
        return path

    return save_checkpoint


def test_necks_in_a_row(save):
    """HRNet's stock configs have two."""
    linear = {"type": "LinearNeck", "in_channels": 64, "out_channels": 8, "init_cfg": {"type": "Pretrained"}}
    head = {**MODEL["head"], "in_channels": 8}
    model = {**MODEL, "neck": [MODEL["neck"], linear], "head": head}
    plain = {"type": "LinearNeck", "in_channels": 64, "out_channels": 8}
    backbone = {key: value for key, value in MODEL["backbone"].items() if key != "init_cfg"}
    network = build_network({**model, "backbone": backbone, "neck": [MODEL["neck"], plain]}, "mmpretrain")
    export = export_checkpoint(save(network.state_dict(), model=model), part="classifier")
    assert export.kept.keys() == {"backbone", "neck", "head"}
    meta = torch.load(export.path, weights_only=True)["meta"]
    assert meta["model"]["neck"] == [
        {"type": "mmpretrain.GlobalAveragePooling"}, {**plain, "type": "mmpretrain.LinearNeck"}
    ]  # fmt: skip
    assert list(build_network(meta["model"]).state_dict()) == list(network.state_dict())


def test_backbone_only_in_plain_types_named_by_its_hash(save, weights):
    source = save()
    export = export_checkpoint(source)
    assert re.fullmatch(r"plain_tiny_1xb8_toy_backbone-[0-9a-f]{8}\.pth", export.path.name)
    assert export.path.parent == source.parent
    assert hashlib.sha256(export.path.read_bytes()).hexdigest().startswith(export.path.stem[-8:])
    content = torch.load(export.path, weights_only=True)
    backbone = {key: value for key, value in weights.items() if key.startswith("backbone.")}
    assert set(content["state_dict"]) == set(backbone)
    assert all(torch.equal(content["state_dict"][key], value) for key, value in backbone.items())
    meta = content["meta"]
    assert meta["algorithm"] == "mmpretrain.ImageClassifier"
    assert meta["model"]["backbone"]["type"] == "mmpretrain.ResNet"
    assert "init_cfg" not in meta["model"]["backbone"]
    assert "head" not in meta["model"]
    assert (meta["source"], meta["epoch"], meta["iter"], meta["seed"]) == ("epoch_2.pth", 2, 10, 7)
    assert meta["dataset_meta"] == {"classes": ["a", "b", "c"]}
    assert str(source.parent) not in repr(meta)
    assert export.kept.keys() == {"backbone"}
    assert export.dropped["branches"] == (1, 6)
    assert len(export.report.matched) == len(backbone)


def test_classifier_can_be_exported_again_as_backbone(save, tmp_path):
    whole = export_checkpoint(save(), tmp_path / "sub" / "net", part="classifier")
    assert re.fullmatch(r"net-[0-9a-f]{8}\.pth", whole.path.name)
    assert whole.kept.keys() == {"backbone", "head"}
    network = build_network(whole.meta["model"])
    network.load_state_dict(torch.load(whole.path, weights_only=True)["state_dict"])
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 3)
    backbone = export_checkpoint(whole.path)
    assert backbone.meta["model"].keys() == {"type", "backbone", "data_preprocessor"}
    assert backbone.meta["epoch"] == 2
    assert backbone.dropped.keys() == {"head"}


def test_out_folder_and_existing_target(save, tmp_path):
    first = export_checkpoint(save(), tmp_path / "exports", overwrite=False)
    assert first.path.name.startswith("exports-")
    (tmp_path / "folder").mkdir()
    inside = export_checkpoint(save(), tmp_path / "folder")
    assert inside.path.parent.name == "folder"
    before = inside.path.stat().st_mtime_ns
    with pytest.raises(ExportError, match="exists already"):
        export_checkpoint(save(), tmp_path / "folder")
    assert inside.path.stat().st_mtime_ns == before
    assert export_checkpoint(save(), tmp_path / "folder", overwrite=True).path == inside.path
    assert not list(tmp_path.rglob("*.tmp"))


def test_averaged_and_raw_weights(save, weights):
    raw = {f"module.{key}": value + 1 for key, value in weights.items() if value.is_floating_point()}
    source = save(ema_state_dict={"steps": torch.tensor(3), **raw})
    key = "backbone.conv1.weight"
    states = {}
    for kind in ("saved", "ema", "raw"):
        export = export_checkpoint(source, source.parent / kind, weights=kind)
        assert export.meta["weights"] == kind
        states[kind] = torch.load(export.path, weights_only=True)["state_dict"][key]
    assert torch.equal(states["saved"], weights[key])
    assert torch.equal(states["ema"], weights[key])
    assert torch.equal(states["raw"], weights[key] + 1)
    for kind in ("ema", "raw"):
        with pytest.raises(ExportError, match="EMAHook"):
            export_checkpoint(save(), weights=kind)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"student.conv.weight": torch.ones(1)}, r"no backbone.* key.*student\.\* \(1\)"),
        ({"backbone.conv1.weight": torch.ones(1)}, "not those of its own config.*missing"),
    ],
)
def test_checkpoint_that_does_not_hold_the_network(save, state, message):
    source = save(state)
    with pytest.raises(ExportError, match=message):
        export_checkpoint(source)
    assert list(source.parent.iterdir()) == [source]


def test_surplus_stage_is_noticed(save, weights):
    with pytest.raises(ExportError, match="unexpected"):
        export_checkpoint(save({**weights, "backbone.layer5.0.conv1.weight": torch.ones(1)}))


def test_wrong_files(save, tmp_path):
    with pytest.raises(FileNotFoundError):
        export_checkpoint(tmp_path / "absent.pth")
    source = save()
    source.write_bytes(source.read_bytes()[:-1000])
    with pytest.raises(CorruptCheckpointError):
        export_checkpoint(source)
    with pytest.raises(ExportError, match="no state_dict, only weight"):
        select_weights({"weight": torch.ones(1)})


@pytest.mark.parametrize("rebuild", [export_checkpoint, load_deployable, load_trained_backbone])
def test_weights_that_are_not_finite(save, weights, rebuild):
    bad = {**weights, "backbone.bn1.running_var": torch.full_like(weights["backbone.bn1.running_var"], float("nan"))}
    source = save(bad)
    with pytest.raises(NonFiniteWeightsError, match=r"epoch_2\.pth .*bn1\.running_var"):
        rebuild(source)
    assert list(source.parent.iterdir()) == [source]
    checkpoint = torch.load(source)
    del checkpoint["meta"]["cfg"]
    torch.save(checkpoint, source)
    with pytest.raises(NonFiniteWeightsError):  # also where no network is known to compare with
        export_checkpoint(source)


def test_checkpoint_without_config(tmp_path, weights):
    torch.save({"state_dict": weights}, tmp_path / "old.pth")
    export = export_checkpoint(tmp_path / "old.pth")
    assert export.report is None
    assert export.path.name.startswith(f"{tmp_path.name}_backbone-")


def test_snippets_of_the_resnet_family_name_stock_classes(save):
    export = export_checkpoint(save())
    snippets = init_cfg_snippets(export.meta, export.path, export.network.backbone)
    for package in ("mmpretrain", "mmdet", "mmseg"):
        config = Config.fromstring(snippets[package], ".py")
        backbone = config.model.backbone
        assert backbone.type == ("mmpretrain.ResNet" if package == "mmpretrain" else "ResNet")
        assert (backbone.depth, backbone.base_channels) == (18, 8)
        assert backbone.init_cfg == {"type": "Pretrained", "checkpoint": str(export.path), "prefix": "backbone."}
    assert "out_indices=(0, 1, 2, 3)" in snippets["mmdet"]
    assert "ResNetV1c" in snippets["mmseg"]
    assert "[8, 16, 32, 64]" in snippets["mmdet"]


@pytest.mark.parametrize(
    ("backbone", "type_in_mmdet"),
    [
        ({"type": "mmpretrain.ResNeXt", "depth": 50}, "ResNeXt"),
        ({"type": "mmpretrain.ResNet", "depth": 18, "deep_stem": True}, "mmpretrain.ResNet"),
        ({"type": "mmpretrain.ResNet_CIFAR", "depth": 18}, "mmpretrain.ResNet_CIFAR"),
    ],
)
def test_snippets_of_other_backbones(backbone, type_in_mmdet):
    network = build_network({"type": "mmpretrain.ImageClassifier", "backbone": backbone})
    snippets = init_cfg_snippets({"model": {"backbone": backbone}}, "x.pth", network.backbone)
    built = Config.fromstring(snippets["mmdet"], ".py").model.backbone
    assert built.type == type_in_mmdet
    assert tuple(built.out_indices) == (0, 1, 2, 3)
    if type_in_mmdet == "ResNeXt":
        assert (built.groups, built.base_width) == (32, 4)
    else:
        assert built._delete_


def test_snippet_of_a_backbone_without_stages():
    backbone = {"type": "mmpretrain.LeNet5"}
    snippets = init_cfg_snippets({"model": {"backbone": backbone}}, "x.pth", nn.Identity())
    assert "out_indices" not in snippets["mmseg"]


def test_config_text_is_read_but_not_run():
    values = {
        "model": {"type": "X", "list": [1, -2.5, {"a-b": None}], "nested": {"7": (1, True)}, "far": float("inf")},
        "default_scope": "mmpretrain",
        "other": [1],
    }
    text = Config(values).pretty_text
    assert read_config_text(text, ("model", "default_scope", "absent")) == {
        key: values[key] for key in ("model", "default_scope")
    }
    for code in ("model = __import__('os').system('true')", "model = dict(a=open('x'))", "model = {**{}}", "model ="):
        with pytest.raises(ValueError, match="config text"):
            read_config_text(code, ("model",))


def test_scoped_type():
    assert scoped_type("ResNet", "mmpretrain") == "mmpretrain.ResNet"
    assert scoped_type("ResNet", None) == "mmpretrain.ResNet"
    assert scoped_type("mmkdprune.CifarResNet", "mmpretrain") == "mmkdprune.CifarResNet"
    assert scoped_type("mmpretrain.models.backbones.resnet.ResNet", None) == "mmpretrain.ResNet"
