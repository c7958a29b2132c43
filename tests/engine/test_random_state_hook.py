import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
import toy_run

import mmkdprune
from mmkdprune.checkpoint.loading import load_checkpoint_file
from mmkdprune.engine.hooks import RandomStateHook, random_state_hook
from mmkdprune.randomness import PrivateRandom, get_global_state

pytestmark = pytest.mark.usefixtures("one_thread")
ENVIRONMENT = dict(os.environ, PYTHONPATH=str(Path(mmkdprune.__file__).parents[1]))


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("by_epoch", [True, False])
def test_resumed_run_is_bit_exact(tmp_path, by_epoch, seed):
    # In epochs: interrupted in the third, so the second's checkpoint counts. In iterations: after 5, the fourth's.
    settings = {"length": 4, "stop_after": 9} if by_epoch else {"length": 7, "stop_after": 5}
    toy_run.train_twice(tmp_path, by_epoch=by_epoch, seed=seed, **settings)


def test_seeds_that_differ_between_ranks(tmp_path):
    toy_run.train_twice(tmp_path, 9, diff_rank_seed=True, ema=False)


def test_workers(tmp_path):
    checkpoint = {"type": "CheckpointHook", "interval": 1}
    toy_run.train_twice(tmp_path, 5, length=2, workers=1, ema=False, checkpoint=checkpoint)


def test_two_processes(tmp_path):
    commands = [[sys.executable, toy_run.__file__, str(rank), str(tmp_path)] for rank in range(2)]
    environment = dict(ENVIRONMENT, LOCAL_RANK="0", CUDA_VISIBLE_DEVICES="")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    # MMEngine leaves `.dist_test/` in the working directory.
    processes = [subprocess.Popen(command, env=environment, cwd=tmp_path, **pipes) for command in commands]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    checkpoint = load_checkpoint_file(tmp_path / "parts" / "epoch_4.pth")["mmkdprune"]
    assert checkpoint["world_size"] == len(checkpoint["random_state"]) == 2
    first, second = (state["private"]["mixing"]["words"] for state in checkpoint["random_state"])
    assert first != second


@pytest.mark.parametrize("by_epoch", [True, False])
def test_validation_leaves_training_alone(tmp_path, by_epoch):
    runs = []
    for name, validation in (
        ("with", {}),
        ("without", {"val_cfg": None, "val_dataloader": None, "val_evaluator": None}),
    ):
        runs.append(toy_run.make_runner(tmp_path / name, by_epoch=by_epoch, seed=3, **validation))
        runs[-1].train()
        runs[-1] = toy_run.result_of(runs[-1])
    toy_run.assert_equal(*runs)


def test_best_checkpoint_continues_like_the_last_one(tmp_path):
    """It is written after validation, and the last checkpoint once more with it."""
    checkpoint = {"type": "CheckpointHook", "interval": 2, "by_epoch": False, "save_best": "acc"}
    runner = toy_run.make_runner(tmp_path, by_epoch=False, length=2, seed=3, checkpoint=checkpoint)
    runner.train()
    best = load_checkpoint_file(next(tmp_path.glob("best_acc_*.pth")))
    last = load_checkpoint_file(tmp_path / "iter_2.pth")
    assert best["meta"]["iter"] == last["meta"]["iter"] == 2
    toy_run.assert_equal(best["mmkdprune"], last["mmkdprune"])
    assert last["message_hub"]["runtime_info"]["best_ckpt"].endswith("iter_2.pth")


def test_resuming_from_a_checkpoint_that_was_written_after_validation(tmp_path):
    checkpoint = {"type": "CheckpointHook", "interval": 2, "by_epoch": False, "save_best": "acc"}
    toy_run.train_twice(tmp_path, 5, by_epoch=False, length=7, checkpoint=checkpoint)


def test_loading_weights_only_leaves_the_stream_alone(tmp_path):
    toy_run.make_runner(tmp_path / "a", length=1, seed=3).train()
    results = []
    for load_from in (None, str(tmp_path / "a" / "epoch_1.pth")):
        runner = toy_run.make_runner(tmp_path / "b", length=1, seed=5, load_from=load_from)
        runner.train()
        results.append(torch.rand(2))
    assert torch.equal(*results)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda checkpoint: checkpoint.pop("mmkdprune"), "holds no random state"),
        (lambda checkpoint: checkpoint["mmkdprune"]["random_state"].append({}), "2 process(es) and this run has 1"),
        (lambda checkpoint: checkpoint["mmkdprune"]["random_state"][0]["private"].clear(), "streams mixing"),
    ],
    ids=["no entry", "other world size", "no private stream"],
)
def test_checkpoints_of_other_runs(tmp_path, change, message):
    toy_run.make_runner(tmp_path, length=1, seed=3).train()
    file = tmp_path / "epoch_1.pth"
    checkpoint = load_checkpoint_file(file)
    change(checkpoint)
    torch.save(checkpoint, file)
    runner = toy_run.make_runner(tmp_path, length=2, seed=3, resume=True)
    runner.logger = MagicMock()
    runner.train()
    assert runner.epoch == 2
    calls = [*runner.logger.info.call_args_list, *runner.logger.warning.call_args_list]
    assert sum(message in call.args[0] for call in calls) == 1


def test_one_hook_a_runner(tmp_path):
    runner = toy_run.make_runner(tmp_path / "a")
    configured = toy_run.make_runner(tmp_path / "b", custom_hooks=[{"type": "mmkdprune.RandomStateHook"}])
    for hooks in (runner.hooks, configured.hooks):
        names = [type(hook).__name__ for hook in hooks]
        assert names.count("RandomStateHook") == 1
        assert names.index("RandomStateHook") < names.index("CheckpointHook")


def test_package_imported_while_the_runner_is_built(tmp_path):
    """``type='mmkdprune.X'`` without ``custom_imports`` imports the package as late as that."""
    program = f"""
import sys
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.runner import Runner

@MODELS.register_module()
class Late(BaseModel):
    def __init__(self):
        assert 'mmkdprune' not in sys.modules
        import mmkdprune
        super().__init__()

    def forward(self):
        pass

runner = Runner(model=dict(type='Late'), work_dir={str(tmp_path)!r}, log_level='ERROR')
print([type(hook).__name__ for hook in runner.hooks])
"""
    done = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert "RandomStateHook" in done.stdout, done.stderr


def test_save_at_an_unforeseen_moment(monkeypatch):
    runner, hook = MagicMock(), RandomStateHook()
    runner.model = torch.nn.Linear(1, 1)
    runner.model.stream = PrivateRandom("a")
    runner.train_dataloader = object()
    checkpoint = {"meta": {"iter": 5}}
    hook.before_save_checkpoint(runner, checkpoint)
    (state,) = checkpoint["mmkdprune"]["random_state"]
    assert state["private"] == {"stream": {"name": "a"}}
    assert torch.equal(state["torch"], get_global_state()["torch"])
    # Other ranks are not there to hand in their state, and an old one would be wrong.
    monkeypatch.setattr("mmkdprune.engine.hooks.random_state_hook.get_world_size", lambda: 2)
    checkpoint = {"meta": {"iter": 5}}
    hook.before_save_checkpoint(runner, checkpoint)
    assert "mmkdprune" not in checkpoint
    runner.logger.warning.assert_called_once()


def test_batches_that_are_skipped_without_loading(monkeypatch):
    """The OneDL forks do so, with a new iterator, which draws a random number itself."""

    class Iterator:
        skipped = 0

        def skip_iter(self, number):
            self.skipped += number

        def _ensure_iterator(self):
            torch.rand(1)

    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    hook, inner = RandomStateHook(), Iterator()
    monkeypatch.setattr(hook, "restore_pending", lambda runner: torch.manual_seed(3))
    iterator = random_state_hook._SkippingIterator(inner, 5, hook, runner=None)
    iterator.skip_iter(5)
    assert inner.skipped == 5
    assert torch.equal(torch.rand(2), expected)
