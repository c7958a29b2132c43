from unittest.mock import MagicMock

import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.runner import BaseLoop
from testing_helpers import Labelled, build_model, network

from mmkdprune.datasets import ClassPairBatchSampler
from mmkdprune.engine.hooks import TrainingLabelsHook

MEMORY = {"loss": {"type": "mmkdprune.MemoryMutualContrastiveLoss"}, "num_negatives": 4}


def start(model, labels=(0, 0, 1, 1, 2, 2), pairs=True, training=True):
    dataset = Labelled(labels)
    sampler = DefaultSampler(dataset, seed=0)
    batches = ClassPairBatchSampler(sampler, 4) if pairs else torch.utils.data.BatchSampler(sampler, 4, False)
    loader = torch.utils.data.DataLoader(dataset, batch_sampler=batches)
    runner = MagicMock(model=model, train_dataloader=loader, _train_loop=MagicMock(spec=BaseLoop) if training else {})
    TrainingLabelsHook().before_run(runner)
    return runner


def test_banks_get_the_size_of_the_training_set():
    model = build_model("mmkdprune.MCL", **network(8), **MEMORY)
    runner = start(model, pairs=False)
    assert model.criterion.banks.shape == (2, 6, 128)
    assert model.memory_indices.labels.tolist() == [0, 0, 1, 1, 2, 2]
    runner.logger.warning.assert_not_called()
    banks = model.criterion.banks
    start(model, pairs=False)
    assert model.criterion.banks is banks
    with pytest.raises(ValueError, match=r"num_samples=6 images and the training set has 8"):
        start(model, labels=[0, 1] * 4, pairs=False)


def test_the_same_seed_gives_the_same_banks():
    banks = []
    for _ in range(2):
        torch.manual_seed(4)
        model = build_model("mmkdprune.MCL", **network(8), **MEMORY)
        start(model)
        banks.append(model.criterion.banks)
    assert torch.equal(*banks)


def test_a_run_without_training_is_left_alone():
    model = build_model("mmkdprune.MCL", **network(8), **MEMORY)
    start(model, training=False)
    assert model.criterion.banks is None


@pytest.mark.parametrize("name", ["MCL", "LayerwiseMCL"])
def test_batches_by_chance_are_pointed_out(name):
    model = build_model(f"mmkdprune.{name}", **network(8))
    start(model).logger.warning.assert_not_called()
    (text,) = start(model, pairs=False).logger.warning.call_args[0]
    assert f"{name} compares" in text
    assert "batch_sampler=dict(type='mmkdprune.ClassPairBatchSampler')" in text


def test_other_models_are_left_alone():
    for model in (torch.nn.Linear(2, 2), build_model("mmkdprune.OnlineHSSAKD", **network(8))):
        start(model, pairs=False).logger.warning.assert_not_called()
