import json
import lzma

import numpy as np
import pytest
from PIL import Image
from testing_helpers import REPOSITORY

from mmkdprune.datasets import Omniglot
from mmkdprune.datasets.omniglot import PACKED, SPLIT_FILE, resize_drawings

REAL = REPOSITORY / "data" / "omniglot"
SPLIT = {
    "train": {"background": {"Greek": ["character02", "character01"]}, "evaluation": {"ULOG": ["character01"]}},
    "val": {"background": {"Latin": ["character01"]}, "evaluation": {}},
    "test": {"background": {}, "evaluation": {"ULOG": ["character02"]}},
}
CHARACTERS = [
    "images_background/Greek/character01",
    "images_background/Greek/character02",
    "images_background/Latin/character01",
    "images_evaluation/ULOG/character01",
    "images_evaluation/ULOG/character02",
]


def drawing(number: int) -> np.ndarray:
    """A bar whose place tells the character and the drawing."""
    pixels = np.zeros((105, 105), np.uint8)
    pixels[10 * number : 10 * number + 8, 20:60] = 1
    return pixels


@pytest.fixture
def folder(tmp_path):
    (tmp_path / SPLIT_FILE).write_text(json.dumps(SPLIT))
    return tmp_path


@pytest.fixture
def packed(folder):
    names = [f"{name}/{number:02}.png" for name in CHARACTERS for number in range(2)]
    bits = np.stack([np.packbits(drawing(number)) for number in range(len(names))])
    text = np.frombuffer(lzma.compress("\n".join(names).encode()), np.uint8)
    np.savez(folder / PACKED, bits=bits, paths=text)
    return folder


@pytest.fixture
def unpacked(folder):
    for index, name in enumerate(CHARACTERS):
        (folder / name).mkdir(parents=True)
        for number in range(2):
            ink = drawing(2 * index + number)
            Image.fromarray((1 - ink) * 255).convert("1").save(folder / name / f"{number:02}.png")
    return folder


@pytest.mark.parametrize("layout", ["packed", "unpacked"])
def test_both_layouts_give_the_same_images(layout, request):
    root = request.getfixturevalue(layout)
    dataset = Omniglot(root, "train", pipeline=[])
    assert dataset.metainfo["classes"] == ("Greek/character01", "Greek/character02", "ULOG/character01")
    assert dataset.get_gt_labels().tolist() == [0, 0, 1, 1, 2, 2]
    for index, number in enumerate((0, 1, 2, 3, 6, 7)):
        image = dataset[index]["img"]
        assert (image.shape, image.dtype) == ((28, 28, 3), np.uint8)
        assert (image[..., 0] == image[..., 2]).all()
        assert np.array_equal(image[..., 0], resize_drawings(drawing(number)[None], 28)[0])
        assert image.max() > 200
    assert len(Omniglot(root, "test", size=105, pipeline=[])) == 2


def test_rotations_are_classes_of_their_own(packed):
    plain, turned = Omniglot(packed, pipeline=[]), Omniglot(packed, rotations=True, pipeline=[])
    assert len(turned) == 4 * len(plain)
    assert turned.metainfo["classes"][:4] == tuple(f"Greek/character01{turn}" for turn in ("", "/90", "/180", "/270"))
    for index in range(len(turned)):
        source, turn = plain[index // 4], index % 4
        assert turned[index]["gt_label"] == 4 * source["gt_label"] + turn
        assert np.array_equal(turned[index]["img"], np.rot90(source["img"], turn))


def test_resizing_averages():
    drawings = np.zeros((3, 105, 105), np.uint8)
    drawings[1] = 1
    drawings[2, ::3] = 1
    assert resize_drawings(drawings, 35, chunk=2)[:, 5, 5].tolist() == [0, 255, 85]


def test_bad_input(folder):
    with pytest.raises(ValueError, match=r"split must be one of .* got 'all'"):
        Omniglot(folder, "all")
    with pytest.raises(ValueError, match="size must be 1 to 105 pixels, got 200"):
        Omniglot(folder, size=200)
    with pytest.raises(FileNotFoundError, match=f"there is neither .*{PACKED} nor a folder"):
        Omniglot(folder, pipeline=[])
    with pytest.raises(FileNotFoundError, match=f"there is no .*{SPLIT_FILE}"):
        Omniglot(folder / "elsewhere")
    (folder / "images_background" / "Greek").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"has no drawing of images_background/Greek/character01 \(3 of 3"):
        Omniglot(folder, pipeline=[])
    (folder / PACKED).write_bytes(b"PK")
    with pytest.raises(ValueError, match="is damaged or no packed Omniglot"):
        Omniglot(folder, pipeline=[])
    (folder / SPLIT_FILE).write_text('{"train": 3}')
    with pytest.raises(ValueError, match="is no split file"):
        Omniglot(folder)


@pytest.mark.skipif(not (REAL / PACKED).is_file(), reason="real Omniglot is not in data/")
def test_real_data():
    names = [set(Omniglot(REAL, split, lazy_init=True).metainfo["classes"]) for split in ("train", "val", "test")]
    assert [len(part) for part in names] == [1028, 172, 423]
    assert len(set.union(*names)) == 1623
    dataset = Omniglot(REAL, "val", pipeline=[])
    assert np.bincount(dataset.get_gt_labels()).tolist() == [20] * 172
    share = np.mean([dataset[index]["img"].mean() for index in range(0, len(dataset), 20)])
    assert 10 < share < 40  # thin white strokes on black
