"""The configs of the small real problem: what they read, and that they name what may change under them."""

import inspect
import pickle

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATA_SAMPLERS, DATASETS, init_default_scope
from testing_helpers import REPOSITORY

from mmkdprune.pruning import FilterPruner

CONFIGS = sorted((REPOSITORY / "configs").rglob("*_cifar100-20classes-16px*.py"))
RECIPES = [path for path in CONFIGS if "_base_" not in path.parts]
PLAIN = REPOSITORY / "configs/mixskd/plain_resnet20_1xb64-80e_cifar100-20classes-16px.py"
PAIRS = REPOSITORY / "configs/mcl/plain_resnet20_1xb64-80e-pairs_cifar100-20classes-16px.py"
CLASSES, IMAGES = 100, {"train": 500, "test": 100}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """CIFAR-100 in its own layout, of random pixels; classes come one after the other."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "cifar-100-python"
    folder.mkdir()
    random = np.random.default_rng(0)
    pixels = {}
    for split, number in IMAGES.items():
        labels = [label for label in range(CLASSES) for _ in range(number)]
        pixels[split] = random.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        (folder / split).write_bytes(pickle.dumps({"data": pixels[split], "fine_labels": labels}))
    names = [str(label) for label in range(CLASSES)]
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    return root, pixels


def read(path, root, split):
    init_default_scope("mmpretrain")
    settings = Config.fromfile(path)[f"{split}_dataloader"].dataset
    inner = settings
    while "dataset" in inner:
        inner = inner.dataset
    inner.data_root = str(root)
    return DATASETS.build(settings)


@pytest.fixture(scope="module")
def datasets(images):
    return {"train": read(PLAIN, images[0], "train"), "test": read(PLAIN, images[0], "val")}


@pytest.mark.parametrize("name", ["train", "test"])
def test_every_pixel_is_the_mean_of_four(images, datasets, name):
    _, pixels = images
    dataset = datasets[name]
    wanted = 250 if name == "train" else IMAGES[name]
    assert len(dataset) == 20 * wanted
    assert dataset.get_gt_labels().tolist() == [label for label in range(20) for _ in range(wanted)]
    rows = np.concatenate([np.arange(wanted) + label * IMAGES[name] for label in range(20)])
    exact = pixels[name][rows].reshape(-1, 3, 16, 2, 16, 2).astype(np.float64).mean(axis=(3, 5))
    halved = dataset.images.numpy().astype(np.float64)
    assert halved.shape == exact.shape
    assert np.abs(halved - exact).max() <= 0.5  # rounded


def test_what_is_validated_is_not_augmented(datasets):
    dataset = datasets["test"]
    batch = dataset.__getitems__([3, 1]).batch
    assert torch.equal(batch["inputs"], dataset.images[[3, 1]])


def test_training_images_are_moved_by_two_pixels_and_mirrored(datasets):
    dataset = datasets["train"]
    torch.manual_seed(0)
    batch = dataset.__getitems__([7] * 200).batch["inputs"]
    padded = torch.nn.functional.pad(dataset.images[7], (2, 2, 2, 2))
    crops = [padded[:, y : y + 16, x : x + 16] for y in range(5) for x in range(5)]
    expected = {crop.numpy().tobytes() for crop in crops} | {crop.flip(2).numpy().tobytes() for crop in crops}
    seen = {image.numpy().tobytes() for image in batch}
    assert seen <= expected
    assert len(seen) > 40


def test_batches_of_pairs_hold_16_classes_with_4_images(images):
    dataset = read(PAIRS, images[0], "train")
    settings = Config.fromfile(PAIRS).train_dataloader
    sampler = DATA_SAMPLERS.build({**settings.sampler, "dataset": dataset, "seed": 0})
    sampler = DATA_SAMPLERS.build({**settings.batch_sampler, "sampler": sampler, "batch_size": settings.batch_size})
    labels = dataset.get_gt_labels()
    for _, indices in zip(range(3), sampler, strict=False):
        assert sorted(np.unique(labels[indices], return_counts=True)[1].tolist()) == [4] * 16


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_configs_name_what_may_change_under_them(path):
    """Defaults of pruning and of speed may change; a stored result must stay that of its config."""
    config = Config.fromfile(path)
    assert config.speed == {
        "channels_last": True,
        "fused_optimizer": True,
        "deferred_logging": True,
        "keep_memory": True,
    }
    for hook in config.get("custom_hooks", []):
        if hook.type == "mmkdprune.FilterPruningHook":
            # not named, since variants with WeightPruner have none; a stored result's hash has what it resolves to
            default = inspect.signature(FilterPruner).parameters["bn_policy"].default
            assert hook.pruner.get("bn_policy", default) == "follow"
    assert config.train_cfg.max_epochs == 80
    assert config.optim_wrapper.optimizer == {
        "type": "SGD",
        "lr": 0.1,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 5e-4,
    }
