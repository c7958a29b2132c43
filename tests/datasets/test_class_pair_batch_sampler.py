from collections import Counter

import numpy as np
import pytest
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.registry import DATA_SAMPLERS
from testing_helpers import Labelled

from mmkdprune.datasets import ClassPairBatchSampler, read_labels

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(20), 13))


def make(labels=LABELS, batch_size=16, rank=0, world_size=1, seed=0, epoch=0, **options) -> ClassPairBatchSampler:
    sampler = DefaultSampler(Labelled(labels), shuffle=True, seed=seed)
    sampler.rank, sampler.world_size = rank, world_size
    sampler.set_epoch(epoch)
    return ClassPairBatchSampler(sampler, batch_size, **options)


@pytest.mark.parametrize("samples_per_class", [2, 4, 8])
def test_batches_have_exactly_so_many_classes_and_images(samples_per_class):
    batches = list(make(samples_per_class=samples_per_class))
    assert len(batches) == len(make()) == len(LABELS) // 16
    for batch in batches:
        assert len(set(batch)) == len(batch) == 16  # no image twice
        counts = Counter(LABELS[batch].tolist())
        assert len(counts) == 16 // samples_per_class
        assert set(counts.values()) == {samples_per_class}


def test_every_class_and_image_comes_evenly():
    drawn = np.concatenate([batch for epoch in range(300) for batch in make(epoch=epoch)])
    counts = np.bincount(drawn, minlength=len(LABELS))
    expected = len(drawn) / len(LABELS)
    assert counts.min() > 0
    assert abs(counts - expected).max() < 5 * expected**0.5
    assert counts.std() == pytest.approx(expected**0.5, rel=0.15)  # independent draws


def test_batches_follow_from_seed_epoch_and_process():
    first = list(make())
    assert list(make()) == first
    for change in ({"seed": 1}, {"epoch": 1}, {"rank": 1, "world_size": 2}):
        other = list(make(**change))
        assert other != first
        assert not any(batch in first for batch in other)
    sampler = make()
    list(sampler)
    sampler.sampler.set_epoch(1)  # what MMEngine calls
    assert list(sampler) == list(make(epoch=1))


def test_processes_share_an_epoch():
    assert len(make(world_size=2)) == len(LABELS) // 32


def test_small_classes_are_drawn_with_replacement():
    labels = [0, 0, 0] + [1] * 40 + [2] * 40
    for batch in make(labels, batch_size=12, samples_per_class=4):
        counts = Counter(np.asarray(labels)[batch].tolist())
        assert counts == {0: 4, 1: 4, 2: 4}
        assert len({index for index in batch if index >= 3}) == 8


def test_built_by_name_as_the_runner_does():
    config = {"type": "mmkdprune.ClassPairBatchSampler", "samples_per_class": 4}
    sampler = DefaultSampler(Labelled(LABELS), seed=0)
    built = DATA_SAMPLERS.build(config, default_args={"sampler": sampler, "batch_size": 16})
    assert list(built) == list(make(samples_per_class=4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 15}, "batch_size=15 does not hold whole groups of samples_per_class=2"),
        ({"batch_size": 0}, "batch_size=0 does not hold"),
        ({"samples_per_class": 1}, "samples_per_class must be an integer of 2 or more, got 1"),
        ({"batch_size": 64}, "needs 32 classes and the training set has 20: make samples_per_class at least 4, .* 40"),
        ({"labels": [0, 0, 1, 2, 2], "batch_size": 4}, r"class 1 has a single image \(1 classes have\).*allow_single"),
        ({"world_size": 100}, "in each of 100 .* is more than the 260 images"),
        ({"labels": np.zeros((4, 3), int)}, r"labels of int64 and shape \(4, 3\)"),
        ({"labels": [0.5, 1.0]}, "labels of float64"),
        ({"labels": [-1, 0, 0]}, "unlabelled"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=f"ClassPairBatchSampler: .*{message}"):
        make(**options)


def test_single_images_on_request():
    batches = list(make([0, 0, 1, 2, 2], batch_size=4, allow_single_images=True))
    assert all(len(batch) == 4 for batch in batches)


def test_a_sampler_without_epoch():
    with pytest.raises(ValueError, match=r"InfiniteSampler keeps no epoch.*type='DefaultSampler'"):
        ClassPairBatchSampler(InfiniteSampler(Labelled(LABELS), seed=0), 16)


class ByImage:
    def __init__(self, categories):
        self.categories = categories

    def __len__(self):
        return len(self.categories)

    def get_cat_ids(self, index):
        return self.categories[index]


def test_labels_of_wrappers():
    assert read_labels(ByImage([[3], [1], [2]]), "owner").tolist() == [3, 1, 2]
    for dataset in (ByImage([[3, 1], [1]]), ByImage([[3, 1], [1, 2]]), [1, 2]):
        with pytest.raises(ValueError, match=r"owner: .*training set"):
            read_labels(dataset, "owner")
