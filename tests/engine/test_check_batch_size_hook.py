import pytest
import torch
import toy_run
from mmengine.dataset import InfiniteSampler
from torch.utils.data import BatchSampler

from mmkdprune.engine.hooks import CheckBatchSizeHook
from mmkdprune.models.losses.queue_mutual_contrastive_loss import check_queue


def check(tmp_path, batch_size, images, minimum=2, by_epoch=True, length=4, queue=None, **loader):
    """Builds the loop of a toy run and asks the hook."""
    sampler = loader.pop("sampler", {"type": "DefaultSampler", "shuffle": True})
    dataset = {"type": "ToyDataset", "size": images}
    config = {"dataset": dataset, "batch_size": batch_size, "num_workers": 0, "sampler": sampler, **loader}
    runner = toy_run.make_runner(tmp_path, by_epoch=by_epoch, length=length, ema=False, train_dataloader=config)
    if minimum is not None:
        runner.model.min_batch_size = minimum
    if queue is not None:
        runner.model.check_batch_size = lambda images: check_queue("ToyModel", "model.queue_len", queue, images)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    CheckBatchSizeHook().before_train(runner)


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 6, "images": 24},
        {"batch_size": 6, "images": 26},
        {"batch_size": 6, "images": 25, "minimum": 1},
        {"batch_size": 6, "images": 25, "minimum": None},
        {"batch_size": 6, "images": 25, "drop_last": True},
        {"batch_size": 6, "images": 25, "sampler": {"type": "InfiniteSampler"}, "by_epoch": False, "length": 99},
        {"batch_size": 6, "images": 25, "by_epoch": False, "length": 4},  # ends before the leftover
    ],
)
def test_batches_that_are_large_enough(tmp_path, settings):
    check(tmp_path, **settings)


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        (
            {"batch_size": 6, "images": 25},
            (
                "train_dataloader.batch_size=6 with 25 images per process leaves a last batch of 1",
                "drop_last=True",
                " 5 ",
            ),
        ),
        ({"batch_size": 2, "images": 5}, ("leaves a last batch of 1", "another train_dataloader.batch_size")),
        ({"batch_size": 6, "images": 1}, ("the training set needs at least 2 images per process",)),
        ({"batch_size": 1, "images": 24}, ("train_dataloader.batch_size is 1", "batch_size=2 or more")),
        ({"batch_size": 6, "images": 25, "by_epoch": False, "length": 5}, ("leaves a last batch of 1",)),
    ],
)
def test_batches_that_are_too_small(tmp_path, settings, messages):
    with pytest.raises(ValueError, match="ToyModel needs at least 2 images in a batch") as error:
        check(tmp_path, **settings)
    for message in messages:
        assert message in str(error.value)


def test_unknown_loaders_are_left_alone(tmp_path):
    class Batches(BatchSampler):
        pass

    runner = toy_run.make_runner(tmp_path, ema=False)
    runner.model.min_batch_size = 2
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    data = toy_run.ToyDataset(25)
    infinite = iter(InfiniteSampler(data))  # no length
    for loader in (
        torch.utils.data.DataLoader(data, batch_sampler=Batches(range(25), 6, False)),
        torch.utils.data.DataLoader(data, batch_size=6, sampler=infinite),
        torch.utils.data.DataLoader(data, batch_size=None),
    ):
        runner.train_loop.dataloader = loader
        CheckBatchSizeHook().before_train(runner)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"batch_size": 5, "images": 25},
            r"model.queue_len=24 is no multiple of the 5 images .* set model.queue_len=25",
        ),
        ({"batch_size": 6, "images": 29}, r"no multiple of the 5 images .* train_dataloader.drop_last=True"),
        ({"batch_size": 6, "images": 29, "drop_last": True}, None),
        ({"batch_size": 6, "images": 26}, None),  # the leftover of 2 divides the queue, too
        ({"batch_size": 6, "images": 29, "by_epoch": False, "length": 4}, None),
    ],
)
@pytest.mark.parametrize("minimum", [None, 2])
def test_a_model_may_ask_for_more_than_a_minimum(tmp_path, settings, message, minimum):
    if message is None:
        check(tmp_path, minimum=minimum, queue=24, **settings)
        return
    with pytest.raises(ValueError, match=message):
        check(tmp_path, minimum=minimum, queue=24, **settings)
