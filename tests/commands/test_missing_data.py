import errno
import os
import re

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from testing_helpers import REPOSITORY

from mmkdprune.commands.missing_data import check_initial_weights, explained_missing_data
from mmkdprune.config.data_sources import SOURCES
from mmkdprune.errors import UsageError


def build_dataloader(error):
    """Fails as MMEngine's function of this name does when a data set does."""
    raise error


def missing(path, kind=errno.ENOENT):
    return OSError(kind, os.strerror(kind), str(path))


def explain(dataset, error):
    with pytest.raises(UsageError) as raised, explained_missing_data(Config({"x": {"dataset": dataset}}), "x"):
        build_dataloader(error)
    return str(raised.value)


def test_wrapped_data_sets(tmp_path):
    (tmp_path / "there").mkdir()
    parts = [{"type": "A", "data_root": str(tmp_path / name)} for name in ("there", "absent")]
    dataset = {"type": "RepeatDataset", "dataset": {"type": "ConcatDataset", "datasets": parts}}
    text = explain(dataset, missing(tmp_path / "absent" / "train"))
    assert f"x: the data of A (data_root='{tmp_path}/absent') are not there: {tmp_path}/absent/train: No such" in text
    assert f"ln -s /path/to/the/data {tmp_path}/absent)" in text
    assert "set x.dataset.dataset.datasets.1.data_root=" in text
    assert "ImageNet" not in text
    text = explain(dataset, missing(tmp_path / "there" / "train"))
    assert f"ln -s /path/to/the/data {tmp_path}/there/train)" in text


def test_without_data_root(tmp_path):
    text = explain({"type": "mmpretrain.ImageNet", "data_prefix": "/a"}, missing("/a/b", errno.ENOTDIR))
    assert "x: the data of ImageNet (data_root='') are not there: /a/b: Not a directory" in text
    assert "train/<class>/*.JPEG" in text


def test_list_of_mmsegmentation():
    error = AssertionError("Failed to load `ann_file` data/VOC2012/train.txt")
    text = explain({"type": "PascalVOCDataset", "data_root": "data/VOC2012"}, error)
    assert "x: the data of PascalVOCDataset (data_root='data/VOC2012') are not there: " in text
    assert "data/VOC2012/train.txt: No such file or directory" in text
    with pytest.raises(AssertionError, match="another"), explained_missing_data(Config({}), "x"):
        raise AssertionError("another")


def read_annotations(error):
    """Fails as a metric does: not while data are built."""
    raise error


@pytest.mark.parametrize(
    ("build", "error"),
    [
        (build_dataloader, FileNotFoundError("CIFAR-100: says what to do itself")),
        (read_annotations, missing("/metric/file")),
    ],
    ids=["own words", "no data set"],
)
def test_other_errors_pass(build, error):
    config = Config({"x": {"dataset": {"type": "A"}}})
    with pytest.raises(FileNotFoundError) as raised, explained_missing_data(config, "x"):
        build(error)
    assert raised.value is error


def test_initial_weights_that_are_not_there(tmp_path):
    there = tmp_path / "there.pth"
    there.touch()
    parts = [("neck", "modelzoo://x"), ("backbone", str(there)), ("head", str(tmp_path / "absent.pth"))]
    model = {name: {"init_cfg": {"type": "Pretrained", "checkpoint": file}} for name, file in parts}
    config = Config({"model": {"heads": [{"a": 1}, model]}})
    with pytest.raises(UsageError) as raised:
        check_initial_weights(config)
    assert f"model.heads.1.head.init_cfg.checkpoint: there is no checkpoint {tmp_path}/absent.pth" in str(raised.value)
    assert "model.heads.1.head.init_cfg=None starts from random weights" in str(raised.value)
    config.model.heads[1]["head"].init_cfg.checkpoint = ""
    with pytest.raises(
        UsageError, match=r"heads\.1\.head\.init_cfg\.checkpoint: it is empty, and a checkpoint is needed"
    ):
        check_initial_weights(config)
    del config.model.heads[1]["head"]
    check_initial_weights(config)


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_set_of_the_configs(name, tmp_path, monkeypatch):
    """What to download, where to put it, and what to run: from the config that uses the set, without data."""
    monkeypatch.chdir(tmp_path)
    source = SOURCES[name]
    folder = REPOSITORY / "configs" / "_base_" / "datasets"
    uses_it = re.compile(rf"dataset_type = '(mmkdprune\.)?{name}'")
    base = next((path for path in sorted(folder.glob("*.py")) if uses_it.search(path.read_text())), None)
    config = Config.fromfile(base or folder / "imagenet_bs32.py")
    assert config.train_dataloader.dataset.data_root.rstrip("/") == source.root
    with (
        DefaultScope.overwrite_default_scope("mmpretrain"),
        pytest.raises((FileNotFoundError, UsageError)) as raised,
        explained_missing_data(config, "train_dataloader"),
    ):
        Runner.build_dataloader(config.train_dataloader)
    text = str(raised.value)
    assert config.train_dataloader.dataset.type.split(".")[-1] == name
    assert source.download.format(root=source.root) in text
    assert (f"Then run once: python tools/dataset_converters/{source.converter}.py {source.root}" in text) == bool(
        source.converter
    )
    assert "data_root" in text
