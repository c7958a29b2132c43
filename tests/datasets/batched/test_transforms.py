import mmcv
import mmpretrain.datasets.transforms as per_image
import numpy as np
import pytest
import torch
from mmcv.transforms import RandomFlip, Resize

from mmkdprune.datasets.batched import BatchCutout, BatchRandomCrop, BatchRandomFlip, batched_transform

IMAGES = torch.randint(0, 256, (6, 3, 8, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def per_image_result(transform, image, **fixed):
    """What the transform makes of one image, (C, H, W), with methods that draw replaced."""
    for name, value in fixed.items():
        setattr(transform, name, lambda *args, value=value: value)
    return torch.from_numpy(transform.transform({"img": image.permute(1, 2, 0).numpy()})["img"].copy()).permute(2, 0, 1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "settings",
    [
        {"crop_size": 8, "padding": 2},
        {"crop_size": (6, 4)},
        {"crop_size": (8, 10), "padding": (1, 3), "pad_val": 7},
        {"crop_size": 5, "padding": (0, 1, 2, 3), "pad_val": (1, 2, 3)},
        {"crop_size": 12, "pad_if_needed": True},
        {"crop_size": (9, 16), "padding": 1, "pad_if_needed": True},
        {"crop_size": (8, 10)},
    ],
)
def test_crop_is_that_of_single_images_pixel_by_pixel(settings):
    single = per_image.RandomCrop(**settings)
    crop = batched_transform(single)
    assert isinstance(crop, BatchRandomCrop)
    height, width = crop.output_size((8, 10))
    top, left = crop.draw(6, (8, 10), generator())
    rows, columns = (whole - part for whole, part in zip(crop.padded_size((8, 10)), (height, width), strict=True))
    top[0], left[0], top[1], left[1] = 0, 0, rows, columns  # both ends are possible
    before = IMAGES.clone()
    cut = crop(IMAGES, top, left)
    assert torch.equal(IMAGES, before)
    assert cut.shape == (6, 3, height, width)
    assert cut.is_contiguous()
    for index in range(6):
        place = (int(top[index]), int(left[index]), height, width)
        assert torch.equal(cut[index], per_image_result(single, IMAGES[index], rand_crop_params=place)), index


@pytest.mark.parametrize("direction", ["horizontal", "vertical", "diagonal"])
def test_flip_is_that_of_single_images_pixel_by_pixel(direction):
    single = RandomFlip(prob=0.5, direction=direction)
    flip = batched_transform(single)
    assert isinstance(flip, BatchRandomFlip)
    vertical, horizontal = flip.draw(200, (8, 10), generator())
    chosen = [index for index in range(200) if vertical[index] or horizontal[index]]
    assert 70 < len(chosen) < 130
    images = IMAGES.repeat(34, 1, 1, 1)[:200]
    flipped = flip(images, vertical, horizontal)
    for index in range(200):
        way = direction if index in chosen else None
        expected = per_image_result(single, images[index], _choose_direction=way)
        assert torch.equal(flipped[index], expected), index


@pytest.mark.parametrize(
    ("prob", "direction", "shares"),
    [
        (0.3, "horizontal", {"horizontal": 0.3}),
        (0.6, ["horizontal", "vertical"], {"horizontal": 0.3, "vertical": 0.3}),
        (
            [0.2, 0.1, 0.5],
            ["diagonal", "vertical", "horizontal"],
            {"diagonal": 0.2, "vertical": 0.1, "horizontal": 0.5},
        ),
        (1.0, "vertical", {"vertical": 1.0}),
        (0.0, "vertical", {}),
    ],
)
def test_flip_probabilities(prob, direction, shares):
    vertical, horizontal = batched_transform(RandomFlip(prob, direction)).draw(20_000, (8, 8), generator(1))
    found = {
        "horizontal": ((horizontal == 1) & (vertical == 0)).double().mean().item(),
        "vertical": ((horizontal == 0) & (vertical == 1)).double().mean().item(),
        "diagonal": ((horizontal == 1) & (vertical == 1)).double().mean().item(),
    }
    for name, share in found.items():
        assert share == pytest.approx(shares.get(name, 0), abs=0.015), name


@pytest.mark.parametrize("settings", [{"shape": 4, "pad_val": 9}, {"shape": (3, 5), "pad_val": (1, 2, 3), "prob": 1.0}])
def test_cutout_is_that_of_single_images_pixel_by_pixel(settings, monkeypatch):
    single = per_image.Cutout(**settings)
    cutout = batched_transform(single)
    assert isinstance(cutout, BatchCutout)
    shape = cutout.shape
    for edge in ((0.0, 0.0), (0.9, 3.2), (4.5, 5.5), (7.99, 9.99)):
        numbers = iter(edge)
        monkeypatch.setattr(np.random, "uniform", lambda high, numbers=numbers: next(numbers))
        expected = mmcv.cutout(IMAGES[0].permute(1, 2, 0).numpy(), shape, pad_val=settings["pad_val"])
        top, left = (torch.tensor([int(max(0, place - part / 2))]) for place, part in zip(edge, shape, strict=True))
        assert torch.equal(cutout(IMAGES[:1], top, left)[0], torch.from_numpy(expected).permute(2, 0, 1))


def test_cutout_distribution():
    cutout, number = BatchCutout(4, prob=0.5), 20_000
    rng = np.random.default_rng(0)
    expected = np.maximum(0, rng.uniform(0, 8, number) - 2).astype(int)  # how mmcv.cutout makes the edge
    top, left = cutout.draw(number, (8, 8), generator())
    assert (top == 8).double().mean().item() == pytest.approx(0.5, abs=0.015)  # not cut
    for edges in (top[top < 8], left):
        share = torch.bincount(edges, minlength=6)[:6] / len(edges)
        assert np.allclose(share, np.bincount(expected, minlength=6)[:6] / number, atol=0.02)
    whole = cutout(IMAGES, torch.full((6,), 8), torch.zeros(6, dtype=torch.int64))
    assert torch.equal(whole, IMAGES)


def test_crop_places_are_even_and_independent():
    top, left = BatchRandomCrop(32, padding=4).draw(40_500, (32, 32), generator(2))
    places = torch.bincount(top * 9 + left, minlength=81)
    assert len(places) == 81
    # chi-square with 80 degrees of freedom: 125 is its 99.9 % quantile
    assert ((places - 500) ** 2 / 500).sum() < 125


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"crop_size=\(13, 13\) is larger than the padded image, \(12, 12\)"):
        BatchRandomCrop(13, padding=2).output_size((8, 8))
    with pytest.raises(ValueError, match="padding_mode='reflect'"):
        batched_transform(per_image.RandomCrop(8, pad_if_needed=True, padding_mode="reflect"))
    with pytest.raises(ValueError, match="fixed shape"):
        batched_transform(per_image.Cutout(magnitude_level=1, magnitude_range=(2, 4)))
    with pytest.raises(ValueError, match="two of them"):
        BatchRandomCrop((1, 2, 3))
    with pytest.raises(ValueError, match="padding must be"):
        BatchRandomCrop(3, padding=-1)
    with pytest.raises(ValueError, match="do not go together"):
        BatchRandomFlip([0.7, 0.7], ["horizontal", "vertical"])
    assert batched_transform(Resize(scale=8)) is None
