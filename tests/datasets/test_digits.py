import numpy as np
import pytest
from mmpretrain.registry import DATASETS

from mmkdprune.datasets import Digits


def test_split_is_fixed_stratified_and_complete():
    train, test = Digits(split="train"), Digits(split="test")
    assert (len(train), len(test)) == (1433, 364)
    for split, share in ((train, 0.8), (test, 0.2)):
        counts = np.bincount(split.get_gt_labels(), minlength=10)
        assert len(counts) == 10
        np.testing.assert_allclose(counts / 179.7, share, atol=0.03)
    assert test.get_gt_labels()[:8].tolist() == Digits(split="test").get_gt_labels()[:8].tolist()
    together = {item["img"].tobytes() for split in (train, test) for item in split}
    assert len(together) > 1790  # a few scans of the set are equal, no image is in both splits
    assert not {item["img"].tobytes() for item in train} & {item["img"].tobytes() for item in test}


@pytest.mark.parametrize("size", [16, 32])
def test_images(size):
    item = DATASETS.build({"type": "mmkdprune.Digits", "size": size})[0]
    assert item["img"].shape == (size, size, 3)
    assert item["img"].dtype == np.uint8
    assert (item["img"][..., 0] == item["img"][..., 2]).all()
    assert item["img"].max() > 200


def test_statistics_of_the_config():
    pixels = np.stack([item["img"] for item in Digits()])
    assert pixels.mean() == pytest.approx(77.8, abs=0.05)
    assert pixels.std() == pytest.approx(81.2, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"split": "val"}, "split must be one of .* got 'val'"), ({"size": 8}, "size must be one of .* got 8")],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        Digits(**arguments)
