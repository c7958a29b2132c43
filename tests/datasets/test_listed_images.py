import pytest

from mmkdprune.datasets import MIT67, MiniImageNet, StanfordCars, StanfordDogs


@pytest.fixture
def root(tmp_path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "train.txt").write_text("Images/bar/b 1.jpg 1\nImages/air/a.jpg 0\n")
    (tmp_path / "meta" / "classes.txt").write_text("air\nbar\n")
    return tmp_path


def test_lists(root):
    data = MIT67(data_root=str(root))
    assert data.metainfo["classes"] == ("air", "bar")
    assert data.get_gt_labels().tolist() == [1, 0]
    assert data.get_data_info(0)["img_path"] == f"{root}/Images/bar/b 1.jpg"
    assert MIT67(data_root=str(root), classes=["a", "b"]).metainfo["classes"] == ("a", "b")


@pytest.mark.parametrize(
    ("kind", "converter"),
    [
        (MIT67, "mit67"),
        (MiniImageNet, "mini_imagenet"),
        (StanfordCars, "stanford_cars"),
        (StanfordDogs, "stanford_dogs"),
    ],
)
def test_absent_lists_say_what_to_do(kind, converter, root):
    command = rf"un once: python tools/dataset_converters/{converter}\.py"
    with pytest.raises(
        FileNotFoundError, match=rf"no {root}/meta/test\.txt\. R{command} {root}\. It needs the official"
    ):
        kind(data_root=str(root), split="test")
    with pytest.raises(
        FileNotFoundError, match=rf"no absent/meta/train\.txt\. .*Then r{command} absent; or set data_root"
    ):
        kind(data_root="absent")
    (root / "meta" / "classes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no .*meta/classes\.txt"):
        kind(data_root=str(root))


def test_unknown_split(root):
    with pytest.raises(ValueError, match="StanfordDogs: split must be one of train, test, got 'val'"):
        StanfordDogs(data_root=str(root), split="val")
