import numpy as np
import pytest
from mmengine.registry import DefaultScope
from PIL import Image

from mmkdprune.compat.segmentation_masks import ACCEPTS_ALL, SegmentationMaskError, patch_masks
from mmkdprune.compat.unreadable_images import UnreadableImageError

pytest.importorskip("mmseg.datasets")
PIPELINE = [{"type": "LoadImageFromFile"}, {"type": "Resize", "scale": (8, 4)}, {"type": "LoadAnnotations"}]
GOOD = np.array([[0, 1, 2, 255, 0, 1]] * 5, np.uint8)


def load(folder, mask, **options):
    """One image of 6 x 5 pixels and its mask, as MMSegmentation reads them for a test."""
    from mmseg.datasets import BaseSegDataset

    patch_masks()
    Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(folder / "image.jpg")
    if isinstance(mask, bytes):
        (folder / "image.png").write_bytes(mask)
    else:
        Image.fromarray(mask).save(folder / "image.png")
    with DefaultScope.overwrite_default_scope("mmseg"):
        dataset = BaseSegDataset(
            data_root=str(folder),
            data_prefix={"img_path": "", "seg_map_path": ""},
            metainfo={"classes": ("a", "b", "c")},
            pipeline=PIPELINE,
            **options,
        )
        return dataset[0]


def test_good_mask_is_loaded_as_before(tmp_path):
    assert np.array_equal(load(tmp_path, GOOD)["gt_seg_map"], GOOD)
    shifted = load(tmp_path, np.where(GOOD == 255, 0, GOOD + 1).astype(np.uint8), reduce_zero_label=True)
    assert np.array_equal(shifted["gt_seg_map"], GOOD)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.where(GOOD == 2, 7, GOOD).astype(np.uint8), r"has the labels 7 in 5 pixels, outside 0 \.\.\. 2"),
        (GOOD[:4], r"is 6 x 4 pixels and its image .*image\.jpg is 6 x 5"),
        (np.stack([GOOD] * 3, -1), r"is \(5, 6, 3\): a picture in colours"),
    ],
)
def test_bad_mask_is_named(tmp_path, mask, message):
    with pytest.raises(SegmentationMaskError, match=message) as refused:
        load(tmp_path, mask)
    assert str(tmp_path / "image.png") in str(refused.value)


def test_unreadable_mask_is_named(tmp_path):
    with pytest.raises(UnreadableImageError, match=r"image\.png cannot be read"):
        load(tmp_path, b"not a picture")


def test_a_set_that_accepts_all_labels_is_not_refused(tmp_path):
    """As CheckClassesHook says it with allow_other_classes=True."""
    from mmseg.datasets import BaseSegDataset

    with pytest.raises(SegmentationMaskError):
        load(tmp_path, np.where(GOOD == 2, 7, GOOD).astype(np.uint8))
    prefix = {"img_path": "", "seg_map_path": ""}
    with DefaultScope.overwrite_default_scope("mmseg"):
        dataset = BaseSegDataset(
            data_root=str(tmp_path), data_prefix=prefix, metainfo={"classes": ("a", "b", "c")}, pipeline=PIPELINE
        )
        setattr(dataset, ACCEPTS_ALL, True)
        assert 7 in dataset[0]["gt_seg_map"]
