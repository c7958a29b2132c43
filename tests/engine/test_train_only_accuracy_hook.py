from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from mmpretrain.structures import DataSample
from testing_helpers import build_model, network, save_weights

from mmkdprune.engine.hooks import TrainOnlyAccuracyHook


class Model(torch.nn.Module):
    """Right on even images, in its own opinion; its teacher on the first `known` images of a batch."""

    num_classes = 4

    def __init__(self, known: int) -> None:
        super().__init__()
        network = SimpleNamespace(deployable_logits=lambda images: images)
        run = lambda function, images: torch.nn.functional.one_hot(  # noqa: E731
            torch.where(torch.arange(len(images)) < known, 1, 2), 4
        ).float()
        self.teacher = SimpleNamespace(network=network, run=run, is_loaded=True, checkpoint="teacher.pth")

    def data_preprocessor(self, batch, training):
        return batch

    def train_only_accuracy(self, inputs, target):
        return {"branch1/joint_top1": (torch.arange(len(inputs)) % 2 == 0).float()}


def validate(hook, model, batches=2, images=20, **sample):
    runner = MagicMock(model=model)
    metrics = {"accuracy/top1": 50.0}
    hook.before_val_epoch(runner)
    samples = [DataSample(**sample) if sample else DataSample().set_gt_label(1) for _ in range(images)]
    for index in range(batches):
        hook.after_val_iter(runner, index, {"inputs": torch.zeros(images, 4), "data_samples": samples})
    hook.after_val_epoch(runner, metrics)
    return metrics, runner.logger


def test_metrics_and_a_teacher_that_knows_something():
    hook = TrainOnlyAccuracyHook()
    metrics, logger = validate(hook, Model(known=15))
    assert metrics == {"accuracy/top1": 50.0, "branch1/joint_top1": 50.0, "teacher/top1": 75.0}
    assert "right on 75.00 % of 40 validation images" in logger.info.call_args[0][0]
    logger.error.assert_not_called()
    model = Model(known=15)
    model.teacher.run = None  # the teacher is the same as before, and is not asked again
    metrics, logger = validate(hook, model)
    assert metrics == {"accuracy/top1": 50.0, "branch1/joint_top1": 50.0, "teacher/top1": 75.0}
    logger.info.assert_not_called()


@pytest.mark.parametrize("known", [0, 5, 8])
def test_a_teacher_at_chance_level_is_reported(known):
    _, logger = validate(TrainOnlyAccuracyHook(), Model(known))
    assert "CHANCE LEVEL for 4 classes" in logger.error.call_args[0][0]


def test_other_models_and_labels_are_left_alone():
    metrics, _ = validate(TrainOnlyAccuracyHook(), torch.nn.Linear(2, 2))
    assert set(metrics) == {"accuracy/top1"}
    metrics, _ = validate(TrainOnlyAccuracyHook(), Model(5), name="no label")
    assert set(metrics) == {"accuracy/top1"}
    metrics, _ = validate(TrainOnlyAccuracyHook(), Model(5), images=0)
    assert set(metrics) == {"accuracy/top1"}


def test_images_that_are_not_scored_do_not_count():
    class Picky(Model):
        def train_only_accuracy(self, inputs, target):
            return super().train_only_accuracy(inputs, target) if inputs.shape[0] == 4 else {}

    hook, model, metrics = TrainOnlyAccuracyHook(), Picky(4), {}
    runner = MagicMock(model=model)
    hook.before_val_epoch(runner)
    for images in (4, 6):
        samples = [DataSample().set_gt_label(1) for _ in range(images)]
        hook.after_val_iter(runner, 0, {"inputs": torch.zeros(images, 4), "data_samples": samples})
    hook.after_val_epoch(runner, metrics)
    assert metrics == {"branch1/joint_top1": 50.0, "teacher/top1": 80.0}


def test_counts_are_those_of_the_model(tmp_path):
    torch.manual_seed(0)
    teacher = build_model("mmkdprune.HSAKD", phase="teacher", **network(20))
    settings = {**network(20), "checkpoint": save_weights(teacher, tmp_path / "teacher.pth")}
    model = build_model("mmkdprune.HSAKD", teacher=settings, **network(8))
    model.init_weights()
    model.eval()
    images = torch.randn(12, 3, 16, 16)
    samples = [DataSample().set_gt_label(index % 10) for index in range(12)]
    hook, runner, metrics = TrainOnlyAccuracyHook(), MagicMock(model=model), {}
    hook.before_val_epoch(runner)
    for part in (slice(0, 8), slice(8, 12)):
        hook.after_val_iter(runner, 0, {"inputs": list(images[part]), "data_samples": samples[part]})
    hook.after_val_epoch(runner, metrics)
    target = torch.arange(12) % 10
    expected = {name: 100 * value.mean().item() for name, value in model.train_only_accuracy(images, target).items()}
    with torch.no_grad():
        right = model.teacher.network(images).argmax(1) == target
    expected["teacher/top1"] = 100 * right.float().mean().item()
    assert metrics == pytest.approx(expected)
