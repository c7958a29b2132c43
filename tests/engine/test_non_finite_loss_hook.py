from unittest.mock import MagicMock

import pytest
import torch
import toy_run
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, OPTIM_WRAPPERS

from mmkdprune.compat.versions import release
from mmkdprune.engine.hooks import NonFiniteLossHook
from mmkdprune.engine.hooks.non_finite_loss_hook import NonFiniteLossError

pytestmark = pytest.mark.usefixtures("one_thread")
NAN, INF = float("nan"), float("inf")
needs_scaler = pytest.mark.skipif(release(torch.__version__) < (2, 3, 0), reason="no GradScaler for CPUs before 2.3")


@MODELS.register_module(force=True)
class Diverging(toy_run.ToyModel):
    """Multiplies a term of its loss by what is given for an iteration; with or without gradients of that term."""

    def __init__(self, factors, detached=False):
        super().__init__()
        self.factors, self.detached, self.done = factors, detached, 0

    def forward(self, inputs, target, mode="tensor"):
        outputs = super().forward(inputs, target, mode)
        if mode != "loss":
            return outputs
        self.done += 1
        second = (outputs["loss"].detach() if self.detached else outputs["loss"]) * self.factors.get(self.done, 1.0)
        return {"loss_a": outputs["loss"], "loss_b": second, "scale": torch.tensor(NAN)}  # which is not a loss


@OPTIM_WRAPPERS.register_module(force=True)
class ScaledOptimWrapper(OptimWrapper):
    """As AmpOptimWrapper in float16, which wants a GPU."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.loss_scaler = torch.amp.GradScaler("cpu")

    def backward(self, loss, **kwargs):
        self.loss_scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs):
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update()


def run(folder, factors, length=4, limit=3, detached=False, **settings):
    """Train epochs of four iterations; return the runner."""
    hook = {"type": "mmkdprune.NonFiniteLossHook", "limit": limit}
    hooks = [hook] if limit != 3 else []
    quiet = {"val_cfg": None, "val_dataloader": None, "val_evaluator": None}
    options = {"custom_hooks": hooks, "ema": False, "seed": 0, "length": length, **quiet, **settings}
    model = {"type": "Diverging", "factors": factors, "detached": detached}
    runner = toy_run.make_runner(folder, model=model, **options)
    runner.logger = MagicMock()
    runner.train()
    return runner


@pytest.mark.parametrize(
    ("factors", "detached", "numbers"),
    [({5: NAN}, False, "5, 6, 7"), ({2: INF, 3: INF, 6: INF, 7: -INF, 8: NAN}, True, "6, 7, 8")],
    ids=["weights are lost", "weights are not"],
)
@pytest.mark.parametrize("interval", [1, 100], ids=["logged", "read by itself"])
def test_three_in_a_row_stop_the_run(tmp_path, factors, detached, numbers, interval):
    logger = {"logger": {"type": "LoggerHook", "interval": interval}}
    checkpoint = {"type": "CheckpointHook", "interval": 1}
    with pytest.raises(NonFiniteLossError) as error:
        run(tmp_path, factors, detached=detached, default_hooks={**logger, "checkpoint": checkpoint})
    assert f"the losses of iterations {numbers} are not finite (at first loss, loss_b), 3 in a row" in str(error.value)
    assert f"from before iteration {numbers[0]} (--resume" in str(error.value)
    assert not (tmp_path / "epoch_2.pth").exists()  # read before the checkpoint of the same iteration


def test_fewer_in_a_row_do_not(tmp_path):
    runner = run(tmp_path, {1: NAN, 2: INF, 4: INF, 5: NAN, 15: NAN}, detached=True)
    assert runner.iter == 16
    runner.logger.error.assert_not_called()


def test_limit(tmp_path):
    with pytest.raises(NonFiniteLossError, match=r"iteration 6 are not finite \(at first loss, loss_b\), 1 in a row"):
        run(tmp_path / "a", {6: NAN}, limit=1)
    with pytest.raises(ValueError, match=r"NonFiniteLossHook\.limit"):
        NonFiniteLossHook(limit=0)


def test_run_that_ends_too_early_says_so(tmp_path):
    runner = run(tmp_path, {16: NAN})
    (call,) = runner.logger.error.call_args_list
    assert "the losses of iteration 16 are not finite (at first loss, loss_b)" in call.args[0]


def test_iteration_based_run(tmp_path):
    with pytest.raises(NonFiniteLossError, match="iterations 4, 5, 6"):
        run(tmp_path, dict.fromkeys(range(4, 8), NAN), by_epoch=False, length=12)


@needs_scaler
@pytest.mark.parametrize("accumulated", [1, 2])
def test_steps_that_a_loss_scaler_skips_do_not_count(tmp_path, accumulated):
    wrapper = {"type": "ScaledOptimWrapper", "optimizer": {"type": "SGD", "lr": 0.1}}
    wrapper["accumulative_counts"] = accumulated
    runner = run(tmp_path / "a", dict.fromkeys(range(3, 11), NAN), optim_wrapper=wrapper)
    assert runner.iter == 16
    assert all(torch.isfinite(value).all() for value in runner.model.state_dict().values())
    with pytest.raises(NonFiniteLossError, match="has skipped 50 steps in a row"):
        run(tmp_path / "b", dict.fromkeys(range(3, 200), NAN), optim_wrapper=wrapper, length=30)


def test_nothing_is_read_in_the_step(tmp_path, monkeypatch):
    """But every ten iterations, all at once."""
    hook, runner = NonFiniteLossHook(), MagicMock(hooks=[], train_dataloader=range(1000))
    runner.optim_wrapper = MagicMock(spec=["optimizer"])
    hook.before_train(runner)
    reads = []
    original = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: reads.append(runner.iter) or original(self))
    for name in ("item", "cpu", "numpy", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, lambda self: pytest.fail("the step waits for the device"))
    for runner.iter in range(25):
        hook.after_train_iter(runner, runner.iter, outputs={"loss": torch.tensor(1.0), "acc": torch.tensor(NAN)})
    assert reads == [9, 19]
