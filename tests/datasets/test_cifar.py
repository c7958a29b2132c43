import pickle

import numpy as np
import pytest
from testing_helpers import REPOSITORY

from mmkdprune.datasets import CIFAR10, CIFAR100
from mmkdprune.datasets import cifar as cifar_module

REAL = REPOSITORY / "data" / "cifar-100-python"


@pytest.fixture
def small_set(tmp_path, monkeypatch):
    """A folder in the standard layout with 20 test and 40 training images."""
    monkeypatch.setattr(cifar_module, "IMAGES", {"train": 40, "test": 20})
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for split, number in cifar_module.IMAGES.items():
        pixels = np.arange(number * 3072, dtype=np.int64).reshape(number, 3072).astype(np.uint8)
        entry = {"data": pixels, "fine_labels": list(range(number)), "coarse_labels": [0] * number}
        (folder / split).write_bytes(pickle.dumps(entry, protocol=2))
    return tmp_path


def test_images_and_labels(small_set):
    data = CIFAR100(data_root=str(small_set), check_md5=False)
    assert len(data) == 40
    assert data[3]["gt_label"] == 3
    planes = np.arange(3 * 3072, 4 * 3072, dtype=np.int64).astype(np.uint8).reshape(3, 32, 32)
    assert (data[3]["img"] == planes.transpose(1, 2, 0)).all()
    assert len(CIFAR100(data_root=str(small_set), split="test", check_md5=False)) == 20


def test_cifar_10_comes_in_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar_module, "IMAGES", {"train": 20, "test": 4})
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for number in range(1, 6):
        entry = {"data": np.full((4, 3072), number, np.uint8), "labels": [number] * 4}
        (folder / f"data_batch_{number}").write_bytes(pickle.dumps(entry, protocol=2))
    data = CIFAR10(data_root=str(tmp_path), check_md5=False)
    assert data.get_gt_labels().tolist() == [number for number in range(1, 6) for _ in range(4)]
    assert all((data[index]["img"] == data[index]["gt_label"]).all() for index in range(20))
    assert len(data.metainfo["classes"]) == 10
    with pytest.raises(FileNotFoundError, match=r"CIFAR-10: no file test_batch .*Unpack cifar-10-python.tar.gz"):
        CIFAR10(data_root=str(tmp_path), split="test", check_md5=False)
    (folder / "data_batch_3").write_bytes(pickle.dumps({"data": np.zeros((3, 3072), np.uint8), "labels": [0] * 3}))
    with pytest.raises(
        ValueError, match=r"CIFAR-10: .*data_batch_3 holds data of shape \(3, 3072\), expected \(4, 3072\)"
    ):
        CIFAR10(data_root=str(tmp_path), check_md5=False)


def test_checksums_can_be_switched_off_but_are_on_by_default(small_set):
    with pytest.raises(ValueError, match=r"not the official ones \(md5\).*check_md5=False"):
        CIFAR100(data_root=str(small_set))


def test_absent_folder_says_what_to_put_where(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file train in .*Unpack cifar-100-python.tar.gz.*download=True"):
        CIFAR100(data_root=str(tmp_path), check_md5=False)


class Evil:
    def __reduce__(self):
        return print, ("this must never run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"data": Evil()}), "builtins.print"),
        (pickle.dumps({"labels": [1]}), "'data'"),
        (b"\x80\x02}q", "damaged"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "fine_labels": [0, 1]}), r"shape \(2, 3072\), expected"),
    ],
    ids=["code", "other set", "truncated", "wrong size"],
)
def test_damaged_and_dangerous_files(small_set, content, message, capsys):
    (small_set / "cifar-100-python" / "train").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        CIFAR100(data_root=str(small_set), check_md5=False)
    assert "never run" not in capsys.readouterr().out


@pytest.mark.skipif(not (REAL / "test").is_file(), reason="real CIFAR-100 is not in data/")
def test_real_set():
    data = CIFAR100(data_root=str(REAL.parent), split="test", check_md5=False)
    assert len(data) == 10_000
    assert np.bincount(data.get_gt_labels()).tolist() == [100] * 100
    pixels = np.stack([data[index]["img"] for index in range(0, 10_000, 10)])
    np.testing.assert_allclose(pixels.mean((0, 1, 2)) / 255, [0.509, 0.487, 0.441], atol=0.02)
