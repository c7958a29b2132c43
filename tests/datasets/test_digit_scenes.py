import json
import pickle
import re

import cv2
import numpy as np
import pytest
from mmengine.registry import DATASETS, init_default_scope
from testing_helpers import REPOSITORY

from mmkdprune.datasets import DigitScenes
from mmkdprune.datasets.digit_scenes import compose_scene, write_digit_scenes
from mmkdprune.datasets.digit_scenes.dataset import run_lengths
from mmkdprune.datasets.digits import read_scans

PIXELS = 96
SMALL = {"num_scenes": 6, "size": PIXELS}


@pytest.fixture(scope="module")
def scenes() -> list:
    dataset = DigitScenes("detection", **{**SMALL, "num_scenes": 30})
    return [dataset.scene(number) for number in range(30)]


def test_scenes_are_the_same_every_time_and_differ_with_number_seed_and_split():
    one, again, other = (DigitScenes("detection", seed=seed, **SMALL) for seed in (0, 0, 1))
    validation = DigitScenes("detection", split="val", **SMALL)
    for number in range(len(one)):
        first, second = one.get_data_info(number), again.get_data_info(number)
        np.testing.assert_array_equal(first["img"], second["img"])
        assert first["instances"] == second["instances"]
    images = [dataset.get_data_info(number)["img"] for dataset in (one, other, validation) for number in (0, 1)]
    assert len({image.tobytes() for image in images}) == len(images)


def test_training_and_validation_share_no_scan():
    (train, train_labels), (test, test_labels) = (read_scans(split) for split in ("train", "test"))
    assert (len(train), len(test)) == (1433, 364)
    assert not {scan.tobytes() for scan in train} & {scan.tobytes() for scan in test}
    assert set(train_labels) == set(test_labels) == set(range(10))
    taken = {split: DigitScenes("segmentation", split=split, **SMALL)._scans[0] for split in ("train", "val")}
    np.testing.assert_array_equal(taken["train"], train)
    np.testing.assert_array_equal(taken["val"], test)


def test_boxes_are_tight_and_masks_do_not_overlap(scenes):
    for scene in scenes:
        assert len(scene.labels) >= 1
        assert scene.masks.sum(axis=0).max() == 1
        for box, mask in zip(scene.boxes, scene.masks, strict=True):
            left, top, right, bottom = box.astype(int)
            assert mask.sum() == mask[top:bottom, left:right].sum() >= 8
            for border in (mask[top], mask[bottom - 1], mask[:, left], mask[:, right - 1]):
                assert border.any()
        semantic = scene.semantic_map
        for label, mask in zip(scene.labels, scene.masks, strict=True):
            assert (semantic[mask] == 1 + label).all()
        assert (semantic > 0).sum() == scene.masks.sum()


def test_strokes_stand_out_and_scenes_vary(scenes):
    gaps, sizes = [], []
    for scene in scenes:
        grey = scene.image.mean(axis=2)
        for box, mask in zip(scene.boxes, scene.masks, strict=True):
            left, top, right, bottom = box.astype(int)
            window, inside = grey[top:bottom, left:right], mask[top:bottom, left:right]
            gaps.append(window[inside].mean() - window[~inside].mean())
            sizes.append(bottom - top)
    # Lighter and darker ones, and hardly any that nobody could see.
    assert np.mean(np.abs(gaps) > 25) > 0.95
    assert 0.2 < np.mean(np.array(gaps) > 0) < 0.8
    assert max(sizes) > 2 * min(sizes)
    assert {label for scene in scenes for label in scene.labels} == set(range(10))
    assert np.std([scene.image.mean() for scene in scenes]) > 20


def test_number_of_digits_keeps_to_its_bounds(scenes):
    assert all(len(scene.labels) <= 10 for scene in scenes)
    scans, labels = read_scans("train")
    crowded = compose_scene(scans, labels, 32, (50, 50), np.random.RandomState(0))
    assert 1 <= len(crowded.labels) < 50  # no more than there is room for
    single = compose_scene(scans, labels, 64, (1, 1), np.random.RandomState(0))
    assert len(single.labels) == 1


def test_what_a_pipeline_changes_stays_in_the_pipeline():
    dataset = DigitScenes("segmentation", **SMALL)
    info = dataset.get_data_info(2)
    before = info["img"].copy(), info["gt_seg_map"].copy()
    info["img"][:] = 0
    info["gt_seg_map"][:] = 0
    again = dataset.get_data_info(2)
    np.testing.assert_array_equal(again["img"], before[0])
    np.testing.assert_array_equal(again["gt_seg_map"], before[1])


def test_worker_processes_get_the_same_scenes():
    dataset = DigitScenes("detection", **SMALL)
    copy = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(copy.get_data_info(3)["img"], dataset.get_data_info(3)["img"])
    lazy = DigitScenes("detection", lazy_init=True, **SMALL)
    np.testing.assert_array_equal(lazy.scene(3).boxes, dataset.scene(3).boxes)
    subset = DigitScenes("detection", indices=[4], **SMALL)
    np.testing.assert_array_equal(subset.get_data_info(0)["img"], dataset.get_data_info(4)["img"])


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (16, 9)])
def test_run_lengths_are_those_of_coco(shape):
    mask_utils = pytest.importorskip("pycocotools.mask")
    random = np.random.default_rng(0)
    masks = [random.random(shape) < share for share in (0, 0.3, 1)]
    for mask in masks:
        encoded = mask_utils.frPyObjects(run_lengths(mask), *shape)
        np.testing.assert_array_equal(mask_utils.decode(encoded), mask)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "depth"}, r"task must be one of \('detection', 'segmentation'\), got 'depth'"),
        ({"split": "test"}, r"split must be one of \('train', 'val'\), got 'test'"),
        ({"num_scenes": 0}, "num_scenes must be at least 1, got 0"),
        ({"size": 16}, "size must be at least 32 pixels, got 16"),
        ({"num_digits": (3, 2)}, r"num_digits must be \(least, most\)"),
        ({"num_digits": (0, 2)}, r"num_digits must be \(least, most\)"),
        ({"num_digits": 3}, r"num_digits must be \(a whole number, a whole number\), got 3"),
        ({"num_digits": (1, 2.5)}, r"num_digits must be \(a whole number, a whole number\), got \(1, 2.5\)"),
        ({"size": 64.5}, "size must be a whole number, got 64.5"),
        ({"seed": -1}, r"seed must not be negative and below 2\*\*32, got -1"),
        ({"seed": 2**32}, "seed must not be negative"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        DigitScenes(**{"task": "detection", **options})


def test_the_package_imports_neither_mmdet_nor_mmseg():
    for file in (REPOSITORY / "mmkdprune" / "datasets").rglob("*.py"):
        assert not re.search(r"^\s*(import|from) (mmdet|mmseg|pycocotools)\b", file.read_text(), flags=re.M), file


def test_mmdetection_reads_boxes_masks_and_truth_for_its_metric():
    pytest.importorskip("mmdet")
    init_default_scope("mmdet")
    names = ("img_id", "ori_shape", "img_shape", "instances")
    pipeline = [
        {"type": "LoadImageFromNDArray"},
        {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True},
        {"type": "PackDetInputs", "meta_keys": names},
    ]
    dataset = DATASETS.build({"type": "mmkdprune.DigitScenes", "task": "detection", "pipeline": pipeline, **SMALL})
    entry, scene = dataset[1], dataset.scene(1)
    truth = entry["data_samples"].gt_instances
    np.testing.assert_array_equal(truth.bboxes.tensor.numpy(), scene.boxes)
    np.testing.assert_array_equal(truth.masks.masks, scene.masks)
    assert truth.labels.tolist() == scene.labels.tolist() == dataset.get_cat_ids(1)
    # Blue, green, red, as from a file.
    np.testing.assert_array_equal(entry["inputs"].permute(1, 2, 0).numpy()[..., ::-1], scene.image)
    assert dataset.metainfo["classes"] == tuple("0123456789")


def test_mmsegmentation_gets_the_map_of_classes():
    pytest.importorskip("mmseg")
    init_default_scope("mmseg")
    pipeline = [
        {"type": "LoadImageFromNDArray"},
        {"type": "RandomCrop", "crop_size": (64, 64)},
        {"type": "PackSegInputs"},
    ]
    dataset = DATASETS.build({"type": "mmkdprune.DigitScenes", "task": "segmentation", "pipeline": pipeline, **SMALL})
    entry = dataset[0]
    assert entry["inputs"].shape == (3, 64, 64)
    classes = entry["data_samples"].gt_sem_seg.data[0].numpy()
    assert classes.shape == (64, 64)
    whole, image = dataset.scene(0).semantic_map, dataset.scene(0).image[..., ::-1]
    crops = [(top, left) for top in range(33) for left in range(33)]
    (place,) = [
        (top, left)
        for top, left in crops
        if np.array_equal(image[top : top + 64, left : left + 64], entry["inputs"].permute(1, 2, 0).numpy())
    ]
    np.testing.assert_array_equal(whole[place[0] : place[0] + 64, place[1] : place[1] + 64], classes)
    assert dataset.metainfo["classes"] == ("background", *"0123456789")


def test_files_are_read_by_the_stock_data_sets(tmp_path):
    mmdet, mmseg = (pytest.importorskip(name) for name in ("mmdet", "mmseg"))
    assert mmdet
    assert mmseg
    for split in ("train", "val"):
        assert write_digit_scenes(tmp_path, split=split, **SMALL) == 6
    with pytest.raises(FileExistsError, match=r"train\.json is there already"):
        write_digit_scenes(tmp_path, split="train", **SMALL)
    ours = DigitScenes("detection", split="val", **SMALL)
    stock = DATASETS.build(
        {
            "type": "mmdet.CocoDataset",
            "data_root": str(tmp_path),
            "ann_file": "annotations/val.json",
            "data_prefix": {"img": "img_dir/val"},
            "metainfo": {"classes": tuple("0123456789")},
            "pipeline": [],
            "test_mode": True,
        }
    )
    maps = DATASETS.build(
        {
            "type": "mmseg.BaseSegDataset",
            "data_root": str(tmp_path),
            "data_prefix": {"img_path": "img_dir/val", "seg_map_path": "ann_dir/val"},
            "img_suffix": ".png",
            "metainfo": {"classes": ("background", *"0123456789")},
            "pipeline": [],
        }
    )
    for number in range(6):
        info, scene = stock.get_data_info(number), ours.scene(number)
        assert info["instances"] == ours.get_data_info(number)["instances"]
        np.testing.assert_array_equal(cv2.imread(info["img_path"])[..., ::-1], scene.image)
        pixels = cv2.imread(maps.get_data_info(number)["seg_map_path"], cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(pixels, scene.semantic_map)
    listing = json.loads((tmp_path / "annotations" / "train.json").read_text())
    assert len({entry["id"] for entry in listing["annotations"]}) == len(listing["annotations"])
    for entry in listing["annotations"]:
        assert entry["area"] <= entry["bbox"][2] * entry["bbox"][3]


def test_tool_writes_both_splits_and_replaces_nothing(tmp_path, call):
    words = [tmp_path / "scenes", "--train", 3, "--val", 2, "--size", 48]
    code, output = call("write_digit_scenes.py", *words)
    assert code == 0, output
    assert [len(list((tmp_path / "scenes/img_dir" / split).iterdir())) for split in ("train", "val")] == [3, 2]
    code, output = call("write_digit_scenes.py", *words)
    assert code == 1
    assert "train.json is there already: choose another folder" in output
    code, output = call("write_digit_scenes.py", tmp_path / "b", "--size", 8)
    assert code == 1
    assert "size must be at least 32 pixels, got 8" in output
