import mmcv
import numpy as np
import pytest
from mmengine.registry import DefaultScope
from mmpretrain.registry import TRANSFORMS
from PIL import Image

import mmkdprune.datasets  # noqa: F401


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)


def hue_of(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(np.ascontiguousarray(image[..., ::-1])).convert("HSV"))[..., 0].astype(int)


@pytest.mark.parametrize("backend", ["pillow", "cv2"])
@pytest.mark.parametrize("shift", [-0.5, -0.27, -0.004, 0.0, 0.3])
def test_shifts_go_round_the_circle(image, shift, backend):
    turned = mmcv.adjust_hue(image, shift, backend)
    assert (turned.dtype, turned.shape) == (image.dtype, image.shape)
    colourful = np.ptp(image, axis=2) > 120  # a hue survives the way to bytes and back
    difference = (hue_of(turned) - hue_of(image) - int(shift * 255) + 128) % 256 - 128
    assert np.abs(difference[colourful]).max() <= 4


def test_positive_shifts_are_mmcvs(image):
    original = mmcv.adjust_hue.__wrapped__
    for shift, backend in ((0.3, "pillow"), (0.0, "pillow"), (0.49, "cv2"), (0.3, None)):
        assert np.array_equal(mmcv.adjust_hue(image, shift, backend), original(image, shift, backend))
    with pytest.raises(ValueError, match="hue_factor"):
        mmcv.adjust_hue(image, -0.6, "pillow")


def test_color_jitter_of_the_self_supervised_configs(image):
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        jitter = TRANSFORMS.build({"type": "ColorJitter", "hue": 0.4})
    for _ in range(20):
        assert jitter({"img": image})["img"].shape == image.shape
