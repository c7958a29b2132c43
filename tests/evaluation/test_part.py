"""A part of a data set that is held in memory, and metrics on it."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import nn
from torch.utils.data import DataLoader

from mmkdprune.errors import UsageError
from mmkdprune.evaluation import part
from mmkdprune.evaluation.part import HeldImages, PartialEvaluation


class Images(torch.utils.data.Dataset):
    """Numbered images with noise, as of augmentation."""

    def __init__(self, number=20):
        self.number = number

    def __len__(self):
        return self.number

    def __getitem__(self, index):
        return {"inputs": torch.full((2, 4, 4), float(index)) + torch.rand(2, 4, 4), "data_samples": index}


class Mean(BaseMetric):
    """Mean of what the model gives."""

    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        print("a table")
        return {"mean": sum(results) / len(results), "number": len(results), "name": "text", "several": [1.0, 2.0]}


class Model(BaseModel):
    def __init__(self):
        super().__init__(BaseDataPreprocessor())
        self.norm, self.frozen, self.unread = (nn.BatchNorm2d(2) for _ in range(3))
        self.dropout = nn.Dropout()

    def train(self, mode=True):
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, inputs, data_samples=None, mode="tensor"):
        outputs = self.dropout(self.frozen(self.norm(inputs)))
        return outputs.mean((1, 2, 3)).tolist() if mode == "predict" else outputs


def held(images=8, seed=0, number=20, size=4):
    return HeldImages(DataLoader(Images(number), size), images, seed, "--images")


def numbers(held):
    return [int(index) for batch in held.batches for index in batch["data_samples"]]


def test_the_seed_chooses_images_and_their_augmentation():
    first, again, other = held(), held(), held(seed=1)
    assert numbers(first) == numbers(again) != numbers(other)
    assert first.images == len(set(numbers(first))) == 8
    for one, two in zip(first.batches, again.batches, strict=True):
        assert torch.equal(one["inputs"], two["inputs"])
    assert first.bytes >= 8 * 2 * 4 * 4 * 4


def test_the_random_state_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    held()
    assert torch.equal(torch.rand(1), expected)


def test_all_images_where_there_are_fewer():
    assert numbers(held(images=50)) == list(range(20))


def test_what_cannot_be_held(monkeypatch):
    with pytest.raises(UsageError, match="Images is empty"):
        held(number=0)
    monkeypatch.setattr(part, "MEMORY_LIMIT", 500)
    with pytest.raises(UsageError, match=r"the first 4 images take .* choose fewer than 8 with --images"):
        held()


class TestPartialEvaluation:
    def test_statistics_are_those_of_the_images(self, capsys):
        model, training = Model(), held(seed=1)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        evaluation = PartialEvaluation(model, held(), Evaluator(Mean()), training)
        dense = evaluation.metrics(recalibrate=False)
        assert dense == evaluation.metrics(recalibrate=False)
        assert set(dense) == {"mean", "number"}
        assert dense["number"] == 8
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        found = evaluation.metrics(recalibrate=True)
        means = torch.stack([batch["inputs"].mean((0, 2, 3)) for batch in training.batches]).mean(0)
        torch.testing.assert_close(model.norm.running_mean, means)
        for name in ("frozen", "unread"):
            assert torch.equal(model.get_submodule(name).running_mean, before[f"{name}.running_mean"])
        assert abs(found["mean"]) < abs(dense["mean"])
        assert found == evaluation.metrics(recalibrate=True)  # dropout is off
        assert not any(module.training for module in model.modules())
        assert not capsys.readouterr().out

    def test_without_training_images_nothing_is_recalibrated(self):
        evaluation = PartialEvaluation(Model(), held(), Evaluator(Mean()))
        assert evaluation.metrics(recalibrate=True) == evaluation.metrics(recalibrate=False)

    def test_metrics_that_read_annotations_look_at_the_chosen_images(self):
        metric = Mean()
        metric.img_ids = None
        validation = held()
        for batch in validation.batches:
            batch["data_samples"] = [SimpleNamespace(img_id=100 + int(index)) for index in batch["data_samples"]]
        PartialEvaluation(Model(), validation, Evaluator(metric))
        assert metric.img_ids == [sample.img_id for batch in validation.batches for sample in batch["data_samples"]]

    def test_the_first_image(self):
        validation = held()
        image = PartialEvaluation(Model(), validation, Evaluator(Mean())).first_image()
        assert torch.equal(image, validation.batches[0]["inputs"][:1])
