"""Resuming with another number of iterations per epoch, as with other processes; two real processes: ddp_resume.py."""

from unittest.mock import MagicMock

import ddp_resume
import pytest
import torch
import toy_run
from testing_helpers import run_two_processes

from mmkdprune.checkpoint.loading import load_checkpoint_file
from mmkdprune.engine.resume import ResumeError

pytestmark = pytest.mark.usefixtures("one_thread")
COSINE = [
    {"type": "LinearLR", "start_factor": 0.1, "by_epoch": True, "begin": 0, "end": 1, "convert_to_iter_based": True},
    {
        "type": "CosineAnnealingLR",
        "by_epoch": True,
        "begin": 1,
        "end": 4,
        "eta_min": 0.01,
        "convert_to_iter_based": True,
    },
    {"type": "MultiStepLR", "by_epoch": True, "milestones": [3], "gamma": 0.5},
]


def run(folder, batch_size, stop_after=None, length=4, **settings):
    """Train, interrupted after some iterations; return the runner and the learning rate of each iteration."""
    loader = {"dataset": {"type": "ToyDataset"}, "num_workers": 0}
    hooks = [{"type": "Interruption", "after": stop_after}] if stop_after else []
    runner = toy_run.make_runner(
        folder,
        length=length,
        seed=3,
        train_dataloader={**loader, "batch_size": batch_size, "sampler": {"type": "DefaultSampler", "shuffle": True}},
        custom_hooks=hooks,
        ema=False,
        **{"param_scheduler": COSINE, **settings},
    )
    runner.logger = MagicMock()
    if stop_after:
        with pytest.raises(KeyboardInterrupt):
            runner.train()
    else:
        runner.train()
    return runner, runner.message_hub.get_scalar("train/lr").data[0].tolist()


def warnings_of(runner):
    texts = [call.args[0] for call in runner.logger.warning.call_args_list]
    return [text for text in texts if "saved within" in text or "An epoch of the run" in text]


@pytest.mark.parametrize(("first", "then"), [(3, 6), (6, 3), (5, 6)], ids=["fewer", "more", "uneven"])
def test_schedules_follow_the_epoch(tmp_path, first, then):
    """Epochs of 8 iterations go on with 4, and the other way round; learning rates are those of a run in one go."""
    per_epoch, now = -(-24 // first), -(-24 // then)
    whole, expected = run(tmp_path / "whole", then)
    run(tmp_path / "parts", first, stop_after=2 * per_epoch + 1)
    rest, rates = run(tmp_path / "parts", then, resume=True)
    assert (rest.epoch, rest.iter) == (4, 4 * now) == (whole.epoch, whole.iter)
    assert rates[-2 * now :] == pytest.approx(expected[-2 * now :], rel=1e-12)
    (text,) = warnings_of(rest)
    assert f"had {per_epoch} iterations (1 process(es)) and has {now} here (1)" in text


def test_scaled_learning_rate_is_that_of_the_new_batch(tmp_path):
    scaled = {"auto_scale_lr": {"base_batch_size": 6, "enable": True}, "param_scheduler": None}
    run(tmp_path, 3, stop_after=17, **scaled)
    runner, rates = run(tmp_path, 6, resume=True, **scaled)
    assert rates[-8:] == pytest.approx([0.1] * 8)
    assert runner.optim_wrapper.param_groups[0]["lr"] == pytest.approx(0.1)


@pytest.mark.parametrize("begun", [2, 10], ids=["first epoch", "third epoch"])
def test_checkpoint_from_within_an_epoch(tmp_path, begun):
    """The epoch starts again, its counters and schedules with it."""
    checkpoint = {"type": "CheckpointHook", "interval": 1, "by_epoch": False}
    whole, expected = run(tmp_path / "whole", 6)
    run(tmp_path / "parts", 6, stop_after=begun, checkpoint=checkpoint)
    rest, rates = run(tmp_path / "parts", 6, resume=True, checkpoint=checkpoint)
    assert rest.iter == whole.iter
    epoch = begun // 4
    assert rates[-4 * (4 - epoch) :] == pytest.approx(expected[4 * epoch :], rel=1e-12)
    (text,) = warnings_of(rest)
    assert f"saved within epoch {epoch + 1} (iteration {begun})" in text
    assert any("Random state resumed" in call.args[0] for call in rest.logger.info.call_args_list)


def test_older_checkpoints_without_the_number(tmp_path):
    run(tmp_path, 3, stop_after=17)
    file = tmp_path / "epoch_2.pth"
    checkpoint = load_checkpoint_file(file)
    assert checkpoint["mmkdprune"].pop("iterations_per_epoch") == 8
    torch.save(checkpoint, file)
    runner, _ = run(tmp_path, 6, resume=True)
    assert runner.iter == 16
    assert "had 8 iterations" in warnings_of(runner)[0]


def test_schedules_that_depend_on_validations_are_refused(tmp_path):
    plateau = {"type": "ReduceOnPlateauLR", "monitor": "acc", "by_epoch": True}
    both = {"param_scheduler": [COSINE[0], plateau]}
    run(tmp_path / "both", 3, stop_after=17, **both)
    with pytest.raises(
        ResumeError, match=r"ReduceOnPlateauLR depends on earlier validations.*train_dataloader.batch_size"
    ):
        run(tmp_path / "both", 6, resume=True, **both)
    alone = {"param_scheduler": plateau}  # counts epochs alone, and goes on as it is
    run(tmp_path / "alone", 3, stop_after=17, **alone)
    assert run(tmp_path / "alone", 6, resume=True, **alone)[0].iter == 16


@pytest.mark.slow
def test_two_processes_and_one(tmp_path):
    """With pruning, channels-last: iterations, learning rate and prune steps end where they should.

    In as many processes as before, bit for bit as without an interruption.
    """
    ddp_resume.run(tmp_path / "begun_in_one", begin=True)
    run_two_processes("ddp_resume.py", tmp_path)
    ddp_resume.assert_finished(ddp_resume.run(tmp_path / "begun_in_two", resume=True))
