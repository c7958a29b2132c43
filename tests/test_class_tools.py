"""Every tool that reads labels, on folders of pictures of which one lacks a class."""

import os

import pytest
import torch
from labelled_sets import NAMES, folders, picture
from mmengine.config import Config
from mmengine.runner import Runner
from testing_helpers import build_model, network

from mmkdprune.commands.evaluation import shared
from mmkdprune.deploy.backbone import load_trained_backbone
from mmkdprune.metadata.class_names import ClassMismatchError

CONFIG = """
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmkdprune.CifarResNet', depth=8),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=3, in_channels=64))
data_preprocessor = dict(mean=[100., 80., 60.], std=[50., 60., 70.], to_rgb=True)
loader = dict(batch_size=4, num_workers=0)
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
dataset = dict(type='CustomDataset', pipeline=pipeline)
train_dataloader = dict(
    **loader, dataset=dict(**dataset, data_prefix='{root}/train'), sampler=dict(type='DefaultSampler', shuffle=True))
val_dataloader = dict(
    **loader, dataset=dict(**dataset, data_prefix='{root}/{val}'), sampler=dict(type='DefaultSampler', shuffle=False))
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(type='Accuracy')
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01))
train_cfg = dict(by_epoch=True, max_epochs=1)
val_cfg = test_cfg = dict()
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Configs with a whole and a short validation set, and a checkpoint of the former."""
    root = tmp_path_factory.mktemp("classes")
    folders(root / "train", images=4)
    folders(root / "whole")
    folders(root / "short", ("ant", "cat"))
    for val in ("whole", "short"):
        (root / f"{val}.py").write_text(CONFIG.replace("{root}", str(root)).replace("{val}", val))
    state = build_model("ImageClassifier", **network(8, num_classes=3)).state_dict()
    meta = {"cfg": Config.fromfile(root / "whole.py").pretty_text, "dataset_meta": {"classes": NAMES}}
    torch.save({"meta": meta, "state_dict": state}, root / "net.pth")
    return root


COMMANDS = {
    "train": ["train.py", "{config}", "--work-dir", "{work}"],
    "dry run": ["train.py", "{config}", "--work-dir", "{work}", "--dry-run"],
    "test": ["test.py", "{config}", "{net}", "--work-dir", "{work}"],
    "k-NN": ["knn.py", "{net}", "--data", "{config}"],
    "fast probe": ["linear_probe.py", "{net}", "--data", "{config}", "--fast", "--epochs", "2"],
    "probe": ["linear_probe.py", "{net}", "--data", "{config}", "--work-dir", "{work}"],
}


def called(call, name, made, work, config, *more):
    places = {"config": made / f"{config}.py", "net": made / "net.pth", "work": work}
    return call(*(word.format(**places) for word in COMMANDS[name]), *more)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_validation_set_that_lacks_a_class(made, tmp_path, call, name):
    code, printed = called(call, name, made, tmp_path / "work", "short")
    assert code == 1, printed
    assert "Traceback" not in printed
    message = printed[printed.index("error: ") :]
    for text in ("'bee'", "3 classes, ant, bee, cat", "2 classes, ant, cat"):
        assert text in message
    assert (
        "--allow-other-classes" if name in ("k-NN", "fast probe", "probe") else "allow_other_classes=True"
    ) in message
    assert not list(tmp_path.glob("work/**/*.pth"))


@pytest.mark.parametrize("name", ["train", "test", "k-NN"])
def test_the_same_classes_pass_in_silence(made, tmp_path, call, name):
    code, printed = called(call, name, made, tmp_path / "work", "whole")
    assert code == 0, printed
    assert "CheckClassesHook: " not in printed
    assert "Only a part" not in printed


@pytest.mark.parametrize("name", ["k-NN", "fast probe"])
def test_other_classes_are_accepted_by_name(made, tmp_path, call, name):
    code, printed = called(call, name, made, tmp_path / "work", "short", "--allow-other-classes")
    assert code == 0, printed
    assert "note: accepted (--allow-other-classes): only train_dataloader has 'bee'" in printed


def test_mmengines_own_runner_refuses_too(made, tmp_path):
    config = Config.fromfile(made / "short.py")
    config.work_dir = str(tmp_path)
    with pytest.raises(ClassMismatchError, match="only the training set has 'bee'"):
        Runner.from_cfg(config).train()


def test_transfer(made, tmp_path, call, monkeypatch):
    """It trains with `mmkdprune train`, which refuses."""
    commands = []
    monkeypatch.setattr(os, "execvp", lambda file, command: commands.append(command))
    call("transfer.py", made / "net.pth", "--to", made / "short.py", "--work-dir", tmp_path / "work")
    code, printed = call(*commands[0][3:])
    assert code == 1
    assert "only the training set has 'bee'" in printed


def test_few_shot_reads_labels_too(made, call):
    data = ["few_shot.py", made / "net.pth", "--data", made / "whole.py", "--ways", 2, "--shots", 1, "--queries", 1]
    option = "test_dataloader.dataset.metainfo.classes=ant"
    code, printed = call(*data, "--episodes", 2, "--cfg-options", option)
    assert (code, "Traceback" in printed) == (1, False)
    assert "test_dataloader.dataset.metainfo: classes is the string 'ant'" in printed


@pytest.mark.parametrize("data", ["files", "arrays"])
@pytest.mark.parametrize("training", ["files", "arrays"])
def test_images_as_in_the_training_of_the_checkpoint(made, capsys, tmp_path, training, data):
    """The same pictures are arrays in RGB there and files in BGR here; the network must see one order."""
    pipelines = {"files": [{"type": "LoadImageFromFile"}, {"type": "PackInputs"}], "arrays": [{"type": "PackInputs"}]}
    content = torch.load(made / "net.pth", weights_only=True)
    config = Config.fromfile(made / "whole.py")
    config.train_dataloader.dataset.pipeline = pipelines[training]
    config.data_preprocessor.to_rgb = training == "files"  # it sees RGB
    content["meta"]["cfg"] = config.pretty_text
    torch.save(content, tmp_path / "net.pth")
    evaluated = load_trained_backbone(tmp_path / "net.pth")
    assert evaluated.images.colours == "RGB"
    config.val_dataloader.dataset.pipeline = pipelines[data]
    for to_rgb in (True, False):
        config.data_preprocessor.to_rgb = to_rgb
        evaluated.noted_normalisation = False
        own = shared.preprocessor_settings(config, evaluated, "checkpoint")
        assert own["to_rgb"] == (data == "files")
        assert own["mean"] == config.data_preprocessor.mean
        assert shared.preprocessor_settings(config, evaluated, "data")["to_rgb"] == to_rgb
        printed = capsys.readouterr().out
        assert ("was trained on other images: RGB" in printed) == (to_rgb != own["to_rgb"])
    config.pop("data_preprocessor")
    assert shared.preprocessor_settings(config, evaluated, "data")["to_rgb"] == (data == "files")


def test_an_out_of_range_label_in_validation_only(made, tmp_path, call):
    picture(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text("a.png 0\na.png 3\n")
    options = ["--cfg-options", f"val_dataloader.dataset.ann_file={tmp_path}/list.txt"]
    options += [f"val_dataloader.dataset.data_prefix={tmp_path}"]
    for name in ("train", "fast probe"):
        code, printed = called(call, name, made, tmp_path / "work", "whole", *options)
        assert (code, "Traceback" in printed) == (1, False), printed
        assert "has the label 3, outside 0 ... 2 (1 of 2 images have such labels: 3)" in printed
