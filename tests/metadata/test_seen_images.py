"""The order of colours that a network sees: loader, pipeline and preprocessor together."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from labelled_sets import build, folder_set
from mmengine.config import Config
from testing_helpers import build_model, network

from mmkdprune.metadata.seen_images import (
    SeenImages,
    differences,
    images_of_config,
    images_of_run,
    loader_colours,
    preprocessing_of,
)
from mmkdprune.metadata.trained_on import trained_on

FILES, ARRAYS = [{"type": "LoadImageFromFile"}, {"type": "PackInputs"}], [{"type": "PackInputs"}]
TO_PIL, TO_ARRAY = {"type": "NumpyToPIL", "to_rgb": True}, {"type": "PILToNumpy", "to_bgr": True}


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ({"type": "CustomDataset", "pipeline": FILES}, "BGR"),
        ({"type": "mmkdprune.CIFAR100", "pipeline": ARRAYS}, "RGB"),
        ({"type": "CustomDataset", "pipeline": [FILES[0], TO_PIL, TO_ARRAY]}, "BGR"),
        ({"type": "CustomDataset", "pipeline": [FILES[0], TO_PIL]}, "RGB"),
        ({"type": "CIFAR10", "pipeline": [{"type": "mmcv.Normalize", "to_rgb": True}]}, "BGR"),
        ({"type": "mmkdprune.DigitScenes", "pipeline": [{"type": "mmdet.LoadImageFromNDArray"}]}, "BGR"),
        ({"type": "RepeatDataset", "dataset": {"type": "CustomDataset", "pipeline": FILES}}, "BGR"),
        ({"type": "ConcatDataset", "datasets": [{"pipeline": FILES}, {"pipeline": ARRAYS}]}, None),
        ({"type": "CustomDataset", "pipeline": [{"type": "LoadMultiChannelImageFromFiles"}]}, None),
        ({"type": "CustomDataset"}, None),
        (None, None),
    ],
)
def test_loader(dataset, expected):
    assert loader_colours(dataset) == expected
    assert loader_colours(Config({"dataset": dataset}).dataset) == expected


@pytest.mark.parametrize(("loaders", "flags"), itertools.product(itertools.product(("RGB", "BGR"), repeat=2), (0, 1)))
def test_files_and_arrays_in_all_combinations(loaders, flags):
    """The flag that makes two networks see the same is the same for the same loaders, the other one otherwise."""
    theirs = SeenImages(loaders[0], exchanges=bool(flags))
    flag = SeenImages(loaders[1]).flag_for(theirs.colours)
    assert flag == ((loaders[0] != loaders[1]) != bool(flags))
    assert differences(SeenImages(loaders[1], exchanges=flag), theirs) == []
    assert differences(SeenImages(loaders[1], exchanges=not flag), theirs) == ["colours"]


def test_what_is_not_known_is_taken_to_be_alike():
    assert differences(SeenImages(None, True), SeenImages("BGR", True)) == []
    assert differences(SeenImages(None, True), SeenImages("BGR", False)) == ["colours"]
    assert differences(SeenImages(None, True), SeenImages(seen="RGB")) == []
    grey = SeenImages("RGB", mean=(1.0,), std=(1.0,))
    assert differences(grey, SeenImages("BGR", mean=(1.0,), std=(1.0,))) == []


def test_normalisation():
    one = preprocessing_of({"mean": [1, 2, 3], "std": [1.0, 1, 1]})
    assert differences(one, preprocessing_of({"mean": [1.001, 2, 3], "std": [1, 1, 1]})) == []
    assert differences(one, preprocessing_of({"mean": [3, 2, 1], "std": [1, 1, 1]})) == ["mean"]
    assert differences(one, preprocessing_of(None)) == ["mean", "std"]


@pytest.mark.parametrize("flag", [True, False])
def test_built_and_written_agree(tmp_path, flag):
    preprocessor = {"mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0], "to_rgb": flag}
    settings = folder_set(tmp_path)
    model = build_model("ImageClassifier", **network(8), data_preprocessor=preprocessor)
    ours = images_of_run(model, build(settings))
    config = {"data_preprocessor": preprocessor, "train_dataloader": {"dataset": settings}, "model": {}}
    assert ours == images_of_config(config) == images_of_config(Config(config))
    assert ours.colours == ("RGB" if flag else "BGR")
    batch = {"inputs": torch.zeros(1, 3, 4, 4, dtype=torch.uint8)}
    batch["inputs"][:, 0] = 255
    red_last = model.data_preprocessor(batch)["inputs"].mean((0, 2, 3)).argmax() == 2
    assert red_last == flag


def test_what_a_checkpoint_tells(tmp_path):
    preprocessor = {"mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0], "to_rgb": True}
    config = {"data_preprocessor": preprocessor, "train_dataloader": {"dataset": folder_set(tmp_path)}, "model": {}}
    meta = {"cfg": Config(config).pretty_text, "dataset_meta": {"classes": ["a", "b"]}}
    known = trained_on({"meta": meta})
    assert (known.classes, known.images) == (("a", "b"), images_of_config(config))
    exported = {"model": {"data_preprocessor": preprocessor}, "image_colours": "RGB"}
    assert trained_on({"meta": exported}).images.colours == "RGB"
    assert differences(trained_on({"meta": exported}).images, known.images) == []
    old = {"meta": {"CLASSES": ("a", "b"), "cfg": "not ( a config"}}
    assert (trained_on(old).classes, trained_on(old).images) == (("a", "b"), None)
    for nothing in ({}, {"meta": None}, {"meta": {"dataset_meta": {"classes": "ab"}}}, [], SimpleNamespace()):
        assert (trained_on(nothing).classes, trained_on(nothing).images) == (None, None)
