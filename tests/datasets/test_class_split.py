import json

import numpy as np
import pytest
from mmengine.registry import DATASETS, DefaultScope
from testing_helpers import REPOSITORY

from mmkdprune.datasets import BatchedDataset, Digits

REAL = REPOSITORY / "data" / "cifar-100-python"


def build(classes, parts=("train",), pipeline=(), **options):
    sets = [{"type": "mmkdprune.Digits", "split": part, "pipeline": list(pipeline)} for part in parts]
    dataset = sets[0] if len(sets) == 1 else {"type": "ConcatDataset", "datasets": sets}
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return DATASETS.build({"type": "mmkdprune.ClassSplit", "dataset": dataset, "classes": classes, **options})


def test_classes_are_numbered_anew_in_the_given_order():
    whole, split = Digits(pipeline=[]), build(["7", "2"])
    labels = whole.get_gt_labels()
    assert len(split) == (labels == 7).sum() + (labels == 2).sum()
    assert split.metainfo["classes"] == ("7", "2")
    for index in (0, 5, len(split) - 1):
        old = labels[split.chosen[index]]
        new = {7: 0, 2: 1}[int(old)]
        assert np.array_equal(split[index]["img"], whole[int(split.chosen[index])]["img"])
        assert split[index]["gt_label"] == split.get_gt_labels()[index] == split.get_data_info(index)["gt_label"] == new
        assert split.get_cat_ids(index) == [new]


def test_labels_of_packed_samples_are_those_of_the_split():
    split = build(["7", "2"], pipeline=[{"type": "PackInputs"}])
    for index in (0, 1, 2, 3):
        assert split[index]["data_samples"].gt_label.item() == split.get_gt_labels()[index]


def test_works_in_batches():
    split = build(["7", "2"], pipeline=[{"type": "PackInputs"}])
    batched = BatchedDataset(split)
    assert np.array_equal(batched.get_gt_labels(), split.get_gt_labels())
    assert batched.metainfo["classes"] == ("7", "2")


def test_several_sets_are_joined():
    both = build(["0", "9"], parts=("train", "test"))
    assert len(both) == len(build(["0", "9"])) + len(build(["0", "9"], parts=("test",)))
    assert set(both.get_gt_labels().tolist()) == {0, 1}


def test_classes_from_files(tmp_path):
    (tmp_path / "test.txt").write_text("7\n2\n\n")
    (tmp_path / "splits.json").write_text(json.dumps({"few": {"test": ["7", "2"]}, "n": 3}))
    expected = build(["7", "2"]).get_gt_labels()
    assert np.array_equal(build(str(tmp_path / "test.txt")).get_gt_labels(), expected)
    assert np.array_equal(build(str(tmp_path / "splits.json"), key="few.test").get_gt_labels(), expected)
    with pytest.raises(ValueError, match=r"has no 'few.val' \('val' is missing; it has 'test'\)"):
        build(str(tmp_path / "splits.json"), key="few.val")
    with pytest.raises(ValueError, match="holds no list of names: give key, one of 'few', 'n'"):
        build(str(tmp_path / "splits.json"))
    with pytest.raises(FileNotFoundError, match="there is no file of classes"):
        build(str(tmp_path / "absent.txt"))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["7", "x"], r"Digits has no class 'x' \(1 of 2 names are unknown\); its 10 classes: '0', '1', '2', '3', '4'"),
        (["7", "7"], r"must be different names, got \['7'\]"),
        ([], "must be different names, got none"),
    ],
)
def test_bad_input(classes, message):
    with pytest.raises(ValueError, match=message):
        build(classes)


@pytest.mark.skipif(not (REAL / "test").is_file(), reason="real CIFAR-100 is not in data/")
def test_cifar_fs_of_the_config_is_the_published_split():
    from mmengine.config import Config

    config = Config.fromfile(REPOSITORY / "configs/_base_/datasets/cifar-fs_few-shot.py")
    published = json.loads((REAL / "cifar100_meta_and_fewshot_splits.json").read_text())["cifar_fs"]
    for split in ("train", "val", "test"):
        assert config[f"{split}_dataloader"].dataset.classes == published[split]
    dataset = config.test_dataloader.dataset
    dataset.dataset = {**dataset.dataset.datasets[1], "data_root": str(REAL.parent)}  # the test images only: fast
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        built = DATASETS.build(dataset)
    assert np.bincount(built.get_gt_labels()).tolist() == [100] * 20
