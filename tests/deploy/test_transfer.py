"""A backbone against a config: what fits, what follows, what is refused."""

import importlib
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from testing_helpers import REPOSITORY
from transfer_helpers import (
    FOLDER,
    NARROW,
    NARROW_OPTIONS,
    RETINANET,
    DenseBackbones,
    PrunedBackbones,
    backbone_state,
    build_model,
    check_loaded,
    fits,
)

from mmkdprune.checkpoint.loading import load_checkpoint_file
from mmkdprune.compat.versions import StackError
from mmkdprune.config.reading import read_config
from mmkdprune.deploy import transfer as module
from mmkdprune.deploy.network import build_network
from mmkdprune.deploy.settings import BackboneSettings
from mmkdprune.deploy.snippets import backbone_assignments
from mmkdprune.deploy.source import BackboneSource
from mmkdprune.deploy.transfer import transfer_backbone, transfer_name
from mmkdprune.errors import UsageError
from mmkdprune.metadata.seen_images import SeenImages

for package in ("mmdet", "mmseg"):
    pytest.importorskip(package)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return DenseBackbones(tmp_path_factory.mktemp("dense"))


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    return PrunedBackbones(tmp_path_factory.mktemp("pruned"))


@pytest.mark.parametrize("target", ["mmseg::fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py", f"{RETINANET}.py"])
def test_a_stock_config_and_another_depth(target, dense):
    """ResNetV1c gives way to the ResNet that was trained, heads follow the depth, other weights are out."""
    config = read_config(target if "::" in target else str(FOLDER / target), {"model.backbone.depth": 18})
    transfer = transfer_backbone(dense({"type": "ResNet", "depth": 18}), config)
    assert fits(transfer)
    notes = "\n".join(transfer.notes)
    if "::" in target:
        assert "model.backbone.type: ResNetV1c became ResNet" in notes
        assert "pretrained was taken out" in notes
        assert "model.decode_head.in_channels: 2048 became 512" in notes
        assert "model.auxiliary_head.in_channels: 1024 became 256" in notes
        assert "pretrained" not in transfer.config.model
    else:
        assert "model.neck.in_channels: [256, 512, 1024, 2048] became [64, 128, 256, 512]" in notes
    build_model(transfer)
    assert config.model.backbone.get("init_cfg") != transfer.config.model.backbone.init_cfg  # ours is a copy


def test_a_compact_backbone_in_a_stock_config_with_another_stem(pruned):
    """The plan fits no ResNetV1c, so that the ResNet is next. DeepLabV3+ reads two stages."""
    _, small = pruned["group"]
    name = "mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512.py"
    config = read_config(name, {**NARROW_OPTIONS, "model.decode_head.channels": 16})
    transfer = transfer_backbone(small, config)
    assert fits(transfer)
    assert transfer.is_compact
    backbone = transfer.config.model.backbone
    assert (backbone.backbone, backbone.dilations) == ("ResNet", (1, 1, 2, 4))
    assert any("ResNetV1c became ResNet" in note for note in transfer.notes)
    head = transfer.config.model.decode_head
    assert (head.in_channels, head.c1_in_channels) == (transfer.channels[-1], transfer.channels[0])
    assert head.c1_in_channels < 64
    assert f"model.decode_head.c1_in_channels: 256 became {head.c1_in_channels}" in transfer.notes
    with torch.no_grad():
        assert build_model(transfer).eval()(torch.randn(1, 3, 64, 64)).shape == (1, 150, 16, 16)


@pytest.mark.parametrize(
    ("package", "target"), [("mmdet", RETINANET), ("mmseg", "fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512")]
)
def test_lines_that_compaction_prints_go_into_a_stock_config(package, target, pruned, tmp_path):
    _, small = pruned["group"]
    settings = load_checkpoint_file(small)["meta"]["model"]["backbone"]
    backbone = build_network({"type": "mmpretrain.ImageClassifier", "backbone": settings}).backbone
    lines = backbone_assignments(settings, small, backbone)[package]
    base = FOLDER / f"{target}.py" if package == "mmdet" else f"{package}::{target}.py"
    config = tmp_path / "config.py"
    config.write_text(f"_base_ = '{base}'\n{lines}\n")
    config = Config.fromfile(config)
    check_loaded(config, small)
    kept = {"mmdet": {"frozen_stages": 1, "norm_eval": True}, "mmseg": {"dilations": (1, 1, 2, 4)}}[package]
    assert all(config.model.backbone[name] == value for name, value in kept.items())


def test_a_classifier_as_target(dense, tmp_path):
    config = read_config("mmpretrain::resnet/resnet50_8xb32_in1k.py")
    transfer = transfer_backbone(dense({"type": "ResNet", "depth": 50}), config)
    assert fits(transfer)
    assert build_model(transfer).head.fc.in_features == 2048
    narrow = read_config("mmpretrain::resnet/resnet50_8xb32_in1k.py", {"model.backbone.base_channels": 16})
    transfer = transfer_backbone(dense({"type": "ResNet", "depth": 50, "base_channels": 16}), narrow)
    assert transfer.notes == ["model.head.in_channels: 2048 became 512"]


@pytest.mark.parametrize(
    ("name", "peers"),
    [
        ("mixskd/mixskd_resnet50_8xb16-305e_in1k", 1),
        ("hsakd/hsakd_resnet34_resnet18_8xb32-100e_in1k", 1),
        ("hssakd/hssakd-x2_resnet18_8xb32-100e_in1k", 2),
        ("mcl/mcl-x2_resnet18_8xb32-90e_in1k", 2),
    ],
    ids=lambda value: value.split("/")[0] if isinstance(value, str) else "",
)
def test_training_checkpoint_of_every_method(name, peers, tmp_path):
    """As it is, train-only parts and all; and a peer by its prefix."""
    config = Config.fromfile(REPOSITORY / "configs" / f"{name}.py")
    depth = config.model.backbone.depth
    head = {"model.head.in_channels": 512 if depth == 50 else 128}
    config.merge_from_dict({**NARROW_OPTIONS, **head, "model.init_cfg": None})
    if peers == 2 and "loss" in config.model:  # banks of all of ImageNet take a gigabyte
        config.model.loss = {"type": "mmkdprune.MutualContrastiveLoss"}
        config.model.pop("num_negatives")
    model = build_network(config.model.to_dict(), "mmpretrain")
    path = tmp_path / "epoch_1.pth"
    torch.save({"meta": {"cfg": config.pretty_text}, "state_dict": model.state_dict()}, path)
    target = read_config(str(FOLDER / f"{RETINANET}.py"), {**NARROW_OPTIONS, "model.backbone.depth": depth})
    for peer in range(peers):
        prefix = f"peers.{peer}.backbone." if peer else None
        transfer = transfer_backbone(path, target, prefix=prefix)
        assert fits(transfer)
        assert all("in_channels" in note for note in transfer.notes)
        assert transfer.zeros[0] == 0


def test_training_checkpoint_of_a_compact_network(pruned, tmp_path):
    """Its config names the plan by a path; the one beside it must be the same."""
    _, small = pruned["group"]
    plan = small.with_name("plan.json")
    cfg = Config(
        {
            "default_scope": "mmpretrain",
            "model": {
                "type": "mmkdprune.MixSKD",
                "backbone": {"type": "mmkdprune.CompactBackbone", "backbone": NARROW, "plan": str(plan)},
                "head": {"type": "LinearClsHead"},
            },
        }
    )
    state = {f"backbone.{key}": value for key, value in backbone_state(small).items()}
    content = {"meta": {"cfg": cfg.pretty_text}, "state_dict": {**state, "head.fc.weight": torch.ones(2, 2)}}
    path = tmp_path / "epoch_1.pth"
    torch.save(content, path)
    assert "whose plan is in another file: give it with --plan" in refused(path, NARROW_OPTIONS)
    (tmp_path / "plan.json").write_bytes(plan.read_bytes())
    transfer = transfer_backbone(path, read_config(str(FOLDER / f"{RETINANET}.py"), NARROW_OPTIONS))
    assert fits(transfer)
    assert transfer.config.model.backbone.plan == str(tmp_path / "plan.json")
    build_model(transfer).backbone.init_weights()


def refused(checkpoint, options=None, name=RETINANET, **arguments) -> str:
    config = read_config(str(FOLDER / f"{name}.py"), options or {})
    with pytest.raises(UsageError) as error:
        transfer_backbone(checkpoint, config, **arguments)
    return str(error.value)


def test_what_does_not_fit_is_refused(dense, pruned, tmp_path):
    """Each message names the field, the value and what to do."""
    full, small_depth = dense({"type": "ResNet", "depth": 50}), dense({"type": "ResNet", "depth": 18})
    text = refused(small_depth)
    assert "model.backbone.depth is 50 in the config, but the backbone in" in text
    assert "--cfg-options model.backbone.depth=18" in text
    state = backbone_state(small_depth)
    unnamed = tmp_path / "unnamed.pth"
    torch.save({"state_dict": {f"backbone.{key}": value for key, value in state.items()}}, unnamed)
    text = refused(unnamed, {"model.backbone.depth": 34})
    assert re.search(r"is not the config's ResNet: 120 keys matched, 96 missing \(layer1.2.conv1.weight", text)
    assert "The file has [2, 2, 2, 2] blocks in its stages, ResNet [3, 4, 6, 3]: set the depth" in text
    options = {"model.backbone.depth": 34, "model.neck.in_channels": [64, 128, 256, 512]}
    config = read_config(str(FOLDER / f"{RETINANET}.py"), options)
    assert len(transfer_backbone(unnamed, config, partial=True).report.missing) == 96

    text = refused(full, NARROW_OPTIONS)
    assert "layers of the backbone have other widths: conv1.weight is (64, 3, 7, 7)" in text
    assert "(16, 3, 7, 7) in the config's ResNet" in text
    assert "--plan plan.json" in text
    _, small = pruned["group"]
    bare = tmp_path / "bare.pth"
    torch.save({"state_dict": {f"backbone.{key}": value for key, value in backbone_state(small).items()}}, bare)
    assert "have other widths: conv1.weight is (10, 3, 7, 7)" in refused(bare, NARROW_OPTIONS)
    with_plan = read_config(str(FOLDER / f"{RETINANET}.py"), NARROW_OPTIONS)
    assert fits(transfer_backbone(bare, with_plan, plan=small.with_name("plan.json")))
    assert "does not fit model.backbone: the plan was made for" in refused(small)  # of the narrow network
    assert "none of the 26560 filters of the backbone is zero" in refused(full, keep_zeros=True)

    # As other tools write keys: without the last dot, or DDP's.
    assert "conv1.weight is (64, 3, 7, 7)" in refused(full, NARROW_OPTIONS, prefix="backbone")
    parallel = tmp_path / "parallel.pth"
    torch.save({f"module.{key}": value for key, value in backbone_state(full).items()}, parallel)
    assert "conv1.weight is (64, 3, 7, 7)" in refused(parallel, NARROW_OPTIONS, prefix="")
    torch.save([1], parallel)
    assert "parallel.pth holds a list; a checkpoint is a dictionary" in refused(parallel)

    text = refused(full, {"load_from": "detector.pth"})
    assert "load_from='detector.pth' loads a whole model" in text
    assert "there is no checkpoint nowhere.pth" in refused("nowhere.pth")


def test_a_package_that_refuses_this_mmcv_is_named_first(dense, monkeypatch):
    def refusing(name, package=None):
        if name == "mmdet":
            raise AssertionError("MMCV==2.3.6 is used but incompatible. Please install mmcv>=2.0.0rc4, <2.2.0.")
        return original(name, package)

    original = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", refusing)
    config = read_config(str(FOLDER / f"{RETINANET}.py"))
    with pytest.raises(StackError, match=r"importing it failed.* MMCV==2\.3\.6 is used.*Fix: pip install"):
        transfer_backbone(dense({"type": "ResNet", "depth": 50}), config)


@pytest.mark.parametrize("prefix", ["module.backbone.", "student.", "", "model.student.backbone."])
def test_other_prefixes_are_named(prefix, dense, tmp_path):
    state = backbone_state(dense(NARROW))
    path = tmp_path / "other.pth"
    content = {prefix + key: value for key, value in state.items()} | {"fc.weight": torch.ones(2, 2)}
    torch.save(content if not prefix else {"state_dict": content}, path)  # torchvision's files are the bare weights
    text = refused(path, NARROW_OPTIONS)
    assert f"With prefix={prefix!r}, 318 of the module's 318 keys would match" in text or "With no prefix, 318" in text
    assert "mmkdprune transfer takes it as --prefix" in text
    config = read_config(
        str(FOLDER / f"{RETINANET}.py"), {**NARROW_OPTIONS, "model.neck.in_channels": [64, 128, 256, 512]}
    )
    transfer = transfer_backbone(path, config, prefix=prefix)
    assert fits(transfer)
    model = build_model(transfer)
    model.backbone.init_weights()
    assert torch.equal(model.backbone.conv1.weight, state["conv1.weight"])


@pytest.mark.parametrize("place", ["custom_hooks", "default_hooks"])
def test_a_config_that_keeps_zeros_itself(place, pruned):
    hook = {"type": "mmkdprune.FilterPruningHook", "pruner": {"type": "ZeroKeeper"}}
    options = {**NARROW_OPTIONS, place: [hook] if place == "custom_hooks" else {"pruning": hook}}
    zeroed, _ = pruned["independent"]
    assert "the config's hooks have one: take one out" in refused(zeroed, options, keep_zeros=True)
    config = read_config(str(FOLDER / f"{RETINANET}.py"), options)
    assert not any("may be trained again" in note for note in transfer_backbone(zeroed, config).notes)


def test_images_unlike_those_of_the_training_are_told(dense):
    options = {"model.data_preprocessor.mean": [103.53, 116.28, 123.675], "model.data_preprocessor.bgr_to_rgb": False}
    options["model.backbone.style"] = "caffe"
    config = read_config(str(FOLDER / f"{RETINANET}.py"), options)
    notes = "\n".join(transfer_backbone(dense({"type": "ResNet", "depth": 50}), config).notes)
    assert "data_preprocessor.mean is [103.53, 116.28, 123.675] but the backbone was trained with [123.675" in notes
    assert "the order of colours differs" in notes
    assert "set model.backbone.style='pytorch'" in notes


@pytest.mark.parametrize("training", ["arrays", "files"])
@pytest.mark.parametrize("data", ["arrays", "files"])
def test_order_of_colours_is_what_the_networks_see(training, data):
    """The same colours need the same flag for the same loader, and the other one for the other."""
    steps = {"files": [{"type": "LoadImageFromFile"}], "arrays": []}
    source = BackboneSource(
        Path("a.pth"), images=SeenImages("BGR" if training == "files" else "RGB", False, (1.0,) * 3)
    )
    for flag in (True, False):
        dataset = {"type": "CustomDataset", "pipeline": steps[data]}
        preprocessor = {"mean": [1.0] * 3, "to_rgb": flag}
        config = Config({"data_preprocessor": preprocessor, "model": {}, "train_dataloader": {"dataset": dataset}})
        notes = module._compare_images(config, BackboneSettings({"type": "ResNet"}), source)
        if flag == (training != data):
            assert notes == []
        else:
            assert "the order of colours differs" in notes[0]
            assert f"set data_preprocessor.to_rgb={not flag}" in notes[0]


def test_names_of_runs():
    assert transfer_name("work_dirs/mixskd_resnet50/epoch_20.pth", "a/fcn.py") == "fcn_from_mixskd_resnet50"
    assert transfer_name("work_dirs/small/compact.pth", "mmdet::a/fcn.py") == "fcn_from_small"
    assert transfer_name("x/run_backbone-01234567.pth", "fcn.py") == "fcn_from_run_backbone-01234567"
