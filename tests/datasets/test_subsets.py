import numpy as np
import pytest
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, DefaultScope

from mmkdprune.datasets import ClassSubset, Digits, StratifiedSubset

DIGITS = {"type": "mmkdprune.Digits", "pipeline": []}


def build(**options) -> StratifiedSubset:
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return DATASETS.build({"type": "mmkdprune.StratifiedSubset", "dataset": dict(DIGITS), **options})


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_keeps_the_share_of_every_class(ratio):
    whole, subset = Digits(pipeline=[]), build(ratio=ratio)
    assert len(subset) == int(ratio * len(whole))
    counts, kept = np.bincount(whole.get_gt_labels()), np.bincount(subset.get_gt_labels())
    assert (np.abs(kept - ratio * counts) <= 1).all()
    assert subset.metainfo["classes"] == whole.metainfo["classes"]


def test_choice_depends_on_the_seed_only():
    first, again, other = build(ratio=0.5), build(ratio=0.5), build(ratio=0.5, seed=1)
    assert np.array_equal(first.chosen, again.chosen)
    assert not np.array_equal(first.chosen, other.chosen)
    assert len(set(first.chosen.tolist())) == len(first)


def test_items_are_those_of_the_data_set():
    whole, subset = Digits(pipeline=[]), build(ratio=0.25)
    for index in (0, 7, len(subset) - 1):
        item, expected = subset[index], whole[int(subset.chosen[index])]
        assert np.array_equal(item["img"], expected["img"])
        assert item["gt_label"] == subset.get_gt_labels()[index] == subset.get_data_info(index)["gt_label"]
        assert subset.get_cat_ids(index) == [item["gt_label"]]


@DATASETS.register_module()
class Unlabelled(BaseDataset):
    def load_data_list(self):
        return [{"img": 0}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.0}, "ratio must lie between 0 and 1, got 1.0"),
        ({"ratio": 25}, "got 25"),
        ({"ratio": 0.002}, "leaves a class without an image"),
        ({"ratio": 0.5, "dataset": {"type": "mmengine.Unlabelled"}}, "lists no labels"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def build_classes(**options) -> ClassSubset:
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return DATASETS.build({"type": "mmkdprune.ClassSubset", "dataset": dict(DIGITS), **options})


def test_first_classes_and_their_first_images():
    whole, subset = Digits(pipeline=[]), build_classes(num_classes=4, images_per_class=30)
    assert np.bincount(subset.get_gt_labels()).tolist() == [30] * 4
    labels = np.asarray(whole.get_gt_labels())
    for label in range(4):
        own = subset.chosen[subset.get_gt_labels() == label]
        assert own.tolist() == np.flatnonzero(labels == label)[:30].tolist()
    assert subset.metainfo["classes"] == ("0", "1", "2", "3")
    every = build_classes(num_classes=4)
    assert len(every) == (labels < 4).sum()


@pytest.mark.parametrize(
    "options", [{"num_classes": 11}, {"num_classes": 0}, {"num_classes": 2, "images_per_class": 500}]
)
def test_refuses_classes_that_are_not_there(options):
    with pytest.raises(ValueError, match="cannot be had from 1433 images of 10 classes"):
        build_classes(**options)
