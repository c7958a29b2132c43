import json
import math
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
import toy_pruning_run
import toy_run
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS, MODELS
from torch import nn
from toy_pruning_run import load, pruning_hook, settings, train

import mmkdprune
from mmkdprune.engine.hooks import FilterPruningHook
from mmkdprune.engine.pruning import calendar, run
from mmkdprune.pruning import METHODS, ConstantRate
from mmkdprune.registry import TASK_UTILS

pytestmark = pytest.mark.usefixtures("one_thread")
ENVIRONMENT = dict(os.environ, PYTHONPATH=str(Path(mmkdprune.__file__).parents[1]))
LAYERS = {"conv1": 8, "layer1.conv1": 8, "layer1.conv2": 8, "layer2.conv1": 16, "layer2.conv2": 16}


@HOOKS.register_module(force=True)
class CheckZeros(Hook):
    """Looks after every iteration, as late as possible before checkpoints are saved."""

    priority = 88

    def __init__(self):
        self.checked = 0

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        pruner = pruning_hook(runner).pruner
        models = [runner.model, *(hook.ema_model.module for hook in runner.hooks if isinstance(hook, EMAHook))]
        for name, hard in pruner.hard_masks.items():
            for model in models:
                layer = model.backbone.get_submodule(name)
                norm = model.backbone.get_submodule(name.replace("conv", "bn"))
                assert not any(tensor[hard].any() for tensor in (layer.weight, norm.weight, norm.bias))
            state = runner.optim_wrapper.optimizer.state[runner.model.backbone.get_submodule(name).weight]
            for value in state.values():
                assert value is None or value.ndim == 0 or not value[hard].any()
            self.checked += int(hard.any())


def zeros(state):
    """Number of zero filters of each layer in a state_dict."""
    return {name: int((state[f"backbone.{name}.weight"] == 0).flatten(1).all(1).sum()) for name in LAYERS}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_ends_with_exactly_the_zeros_it_should_have(tmp_path, method):
    train(tmp_path, pruner={"method": method}, length=3, ema=False)
    checkpoint = load(tmp_path / "epoch_3.pth")
    assert zeros(checkpoint["state_dict"]) == {name: math.floor(size * 0.4) for name, size in LAYERS.items()}
    state = checkpoint["mmkdprune"]["pruning"]
    assert state["finalized"]
    assert (state["method"], state["settings"]["rate"]) == (method, 0.4)
    assert list(state["units"]) == list(LAYERS)


@pytest.mark.parametrize(
    ("optim_wrapper", "others"),
    [
        ({"optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}}, {}),
        ({"optimizer": {"type": "Adam", "lr": 1e-2}}, {}),
        ({"optimizer": {"type": "AdamW", "lr": 1e-2}, "clip_grad": {"max_norm": 0.5}}, {}),
        ({"optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9}, "accumulative_counts": 2}, {}),
        ({"optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9}}, {"by_epoch": False, "length": 16}),
    ],
    ids=["sgd", "adam", "clip", "accumulate", "iterations"],
)
def test_hard_filters_are_zero_after_every_iteration(tmp_path, optim_wrapper, others):
    """In the model, in its average and in the optimizer's memory."""
    check = {"type": "CheckZeros"}
    runner = train(tmp_path, check, optim_wrapper=optim_wrapper, **{"length": 4, **others})
    (checker,) = [hook for hook in runner.hooks if isinstance(hook, CheckZeros)]
    assert checker.checked >= 3 * len(LAYERS)
    name = "epoch_4.pth" if "length" not in others else "iter_16.pth"
    checkpoint = load(tmp_path / name)
    expected = {name: math.floor(size * 0.4) for name, size in LAYERS.items()}
    assert zeros(checkpoint["state_dict"]) == expected  # the average
    raw = {key.removeprefix("module."): value for key, value in checkpoint["ema_state_dict"].items()}
    assert zeros(raw) == expected


@pytest.mark.parametrize(
    "pruner",
    [{}, {"freeze": "grad"}, {"bn_policy": "scale", "criterion": "taylor"}],
    ids=["default", "grad", "taylor"],
)
@pytest.mark.parametrize("by_epoch", [True, False])
def test_resumed_run_is_bit_exact(tmp_path, by_epoch, pruner):
    common = {"length": 6, "stop_after": 17} if by_epoch else {"length": 19, "stop_after": 13}
    arguments = {"recalibrate_bn": 2} if by_epoch else {"interval": 3, "warmup": 2, "finetune": 4}
    averaged = {"update_buffers": by_epoch}  # which re-calibration needs
    pruned = settings(by_epoch=by_epoch, pruner=pruner, arguments=arguments, ema=averaged)
    whole, rest = toy_run.train_twice(tmp_path, **pruned, **common)
    name = "epoch_6.pth" if by_epoch else "iter_19.pth"
    first, second = (load(tmp_path / folder / name)["mmkdprune"]["pruning"] for folder in ("whole", "parts"))
    toy_run.assert_equal(first, second)
    assert first["history"]["rate"][0] == 0.0
    assert first["history"]["pruned"][-1].sum() == sum(math.floor(size * 0.4) for size in LAYERS.values())
    assert pruning_hook(whole).pruner.report() == pruning_hook(rest).pruner.report()


@pytest.mark.parametrize("by_epoch", [True, False])
def test_rate_zero_is_the_plain_run_bit_for_bit(tmp_path, by_epoch):
    common = {"length": 2 if by_epoch else 7, "by_epoch": by_epoch, "seed": 3, "model": {"type": "ToyPrunedModel"}}
    runs = []
    for name, hooks in (("plain", []), ("pruned", [toy_pruning_run.hook({"rate": 0.0}, prune_at_start=True)])):
        runner = toy_run.make_runner(tmp_path / name, custom_hooks=hooks, **common)
        runner.train()
        runs.append(toy_run.result_of(runner))
    toy_run.assert_equal(*runs)


def test_two_processes(tmp_path):
    commands = [[sys.executable, toy_pruning_run.__file__, str(rank), str(tmp_path)] for rank in range(2)]
    environment = dict(ENVIRONMENT, LOCAL_RANK="0", CUDA_VISIBLE_DEVICES="")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    processes = [subprocess.Popen(command, env=environment, cwd=tmp_path, **pipes) for command in commands]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)


def history(runner):
    entries = pruning_hook(runner).pruner.history.entries
    return [(entry["t"], entry["total"], entry["final"]) for entry in entries]


def test_steps_of_an_epoch_based_run(tmp_path):
    runner = train(tmp_path, length=7, arguments={"interval": 2, "warmup": 2, "finetune": 2})
    assert history(runner) == [(3, 5, False), (4, 5, False), (4, 5, True)]
    entries = pruning_hook(runner).pruner.history.entries
    assert entries[-1]["pruned"] == [3, 3, 3, 6, 6]
    assert zeros(runner.model.state_dict()) == {name: math.floor(size * 0.4) for name, size in LAYERS.items()}


def test_steps_of_an_iteration_based_run(tmp_path):
    runner = train(tmp_path, by_epoch=False, length=17, arguments={"interval": 4, "finetune": 3})
    # after 4, 8, 12 and 14 iterations
    assert history(runner) == [(0, 4, False), (1, 4, False), (2, 4, False), (3, 4, False), (3, 4, True)]
    usual = train(tmp_path / "usual", by_epoch=False, length=12)
    # 24 images in batches of 6
    assert history(usual) == [(0, 3, False), (1, 3, False), (2, 3, False), (2, 3, True)]


def test_pruning_at_the_start(tmp_path):
    masks = []

    class Look(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            masks.append(zeros(runner.model.state_dict())["conv1"])

    for start in (True, False):
        runner = toy_run.make_runner(
            tmp_path, **settings(pruner={"method": "sfp"}, arguments={"prune_at_start": start}, length=1)
        )
        runner.register_hook(Look())
        runner.train()
    assert (masks[0], masks[4]) == (3, 0)


@pytest.mark.parametrize(("method", "first"), [("ghfp-asrfp", 10), ("asrfp", 10), ("sfp", 1), ("hfp", 1)])
def test_best_checkpoint_is_really_pruned(tmp_path, method, first, monkeypatch):
    """The metric falls from epoch to epoch, so the first network that counts is the best."""
    values = iter(range(100, 0, -1))
    monkeypatch.setattr(toy_run.ToyAccuracy, "compute_metrics", lambda self, results: {"acc": float(next(values))})
    checkpoint = {"type": "CheckpointHook", "interval": 1, "save_best": "acc", "max_keep_ckpts": 1}
    stop = {"type": "EarlyStoppingHook", "monitor": "acc", "patience": 1}
    hooks = [stop] if first > 1 else []
    train(tmp_path, *hooks, pruner={"method": method}, length=10, checkpoint=checkpoint, ema=False)
    (best,) = tmp_path.glob("best_*.pth")
    assert best.name == f"best_acc_epoch_{first}.pth"
    assert zeros(load(best)["state_dict"]) == {name: math.floor(size * 0.4) for name, size in LAYERS.items()}


def test_soft_networks_between_two_steps_are_no_best_ones(tmp_path, monkeypatch):
    values = iter(range(100, 0, -1))
    monkeypatch.setattr(toy_run.ToyAccuracy, "compute_metrics", lambda self, results: {"acc": float(next(values))})
    checkpoint = {"type": "CheckpointHook", "interval": 1, "save_best": "acc"}
    train(tmp_path, pruner={"method": "sfp"}, arguments={"interval": 2}, length=4, checkpoint=checkpoint, ema=False)
    (best,) = tmp_path.glob("best_*.pth")
    assert best.name == "best_acc_epoch_2.pth"


def test_log_and_report(tmp_path, caplog):
    runner = train(
        tmp_path,
        pruner={"method": "asrfp"},
        arguments={"evaluate_finalize": True, "report": True},
        length=4,
        ema=False,
        log_level="INFO",
    )
    (log,) = tmp_path.glob("*/vis_data/scalars.json")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    rows = [row for row in rows if "pruning/rate" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["pruning/rate"] for row in rows] == [ratio * 0.4 for ratio in (0, 1 - 4**-2, 1 - 4**-4, 1)]
    assert [row["pruning/decay"] for row in rows] == [1, pytest.approx(10**-1.25), pytest.approx(10**-2.5), 0]
    assert {row["pruning/hard_share"] for row in rows} == {0}
    assert rows[-1]["pruning/zero/layer2.conv1"] == 6
    assert "pruning/overlap" not in rows[1]
    assert 0 <= rows[2]["pruning/overlap"] <= 1
    (text,) = tmp_path.glob("*/*.log")
    text = text.read_text()
    assert "Pruning 56 filters in 5 layers of backbone to rate 0.4 (asrfp) in 4 steps." in text
    assert "Not pruned: layer2.downsample.0: projection shortcut" in text
    assert "Prune step 2/4: P=0.375000, alpha=0.0562, lambda=0.000000; 0 of 56 filters are zero, 21 masked" in text
    assert "Pruning is finished: 21 filters stay zero from here on." in text
    report = json.loads((tmp_path / "pruning_report.json").read_text())
    assert (tmp_path / "pruning_report.png").read_bytes().startswith(b"\x89PNG")
    assert report["method"] == "asrfp"
    assert [step["t"] for step in report["steps"]] == [0, 1, 2, 3, 3]
    assert report["steps"][-1]["zero"] == 21
    assert report["after_finalize"].keys() == report["before_finalize"].keys() == {"acc"}
    assert runner.message_hub.get_info("best_score") is None


def test_evaluation_around_the_end_leaves_training_alone(tmp_path):
    results = []
    for flag in (True, False):
        runner = train(tmp_path / str(flag), arguments={"evaluate_finalize": flag, "finetune": 2}, length=5)
        results.append(toy_run.result_of(runner))
    toy_run.assert_equal(*results)


def test_recalibrated_statistics_are_those_of_training_images(tmp_path):
    runner = train(tmp_path, arguments={"recalibrate_bn": 3}, pruner={"rate": 0.0}, length=1, ema=False)
    plain = train(tmp_path / "plain", pruner={"rate": 0.0}, length=1, ema=False)
    norm, other = runner.model.backbone.bn1, plain.model.backbone.bn1
    assert torch.equal(norm.weight, other.weight)
    assert not torch.equal(norm.running_mean, other.running_mean)
    assert norm.momentum == other.momentum == 0.1
    assert int(norm.num_batches_tracked) == 3
    data = runner.train_dataloader.dataset.data * 1.05 + 0.1
    channels = runner.model.backbone.conv1(data.view(-1, 3, 1, 2))
    torch.testing.assert_close(norm.running_mean, channels.mean((0, 2, 3)), atol=0.15, rtol=0.1)
    # frozen ones keep theirs
    frozen = toy_run.make_runner(
        tmp_path / "frozen", **settings(arguments={"recalibrate_bn": 3}, pruner={"rate": 0.0}, length=1, ema=False)
    )
    freeze(frozen.model)
    frozen.train()
    assert not frozen.model.backbone.bn1.running_mean.any()


def test_statistics_that_the_deployable_network_does_not_reach_are_kept(tmp_path):
    config = settings(arguments={"recalibrate_bn": 3}, pruner={"rate": 0.0}, length=1, ema=False)
    runner = toy_run.make_runner(tmp_path, **config)
    runner.model.branch = nn.BatchNorm2d(4)
    runner.model.branch.running_mean.fill_(7)
    runner.model.branch.num_batches_tracked.fill_(5)
    runner.train()
    branch = runner.model.branch
    assert (branch.running_mean == 7).all()
    assert int(branch.num_batches_tracked) == 5
    assert int(runner.model.backbone.bn1.num_batches_tracked) == 3


def test_frozen_statistics_of_the_averaged_network_are_kept_too(tmp_path):
    config = settings(arguments={"recalibrate_bn": 3}, pruner={"rate": 0.0}, length=1, ema={"update_buffers": True})
    runner = toy_run.make_runner(tmp_path, **config)
    freeze(runner.model)
    runner.train()
    (average,) = [hook.ema_model.module for hook in runner.hooks if isinstance(hook, EMAHook)]
    assert not average.backbone.bn1.running_mean.any()
    config = settings(arguments={"recalibrate_bn": 3}, length=1)
    with pytest.raises(ValueError, match=r"EMAHook\(update_buffers=False\) validates .* set update_buffers=True"):
        toy_run.make_runner(tmp_path / "refused", **config).train()


@pytest.mark.parametrize("size", [8, None])
def test_batch_samplers_know_the_size_of_a_batch(size):
    dataset = list(range(40))
    sampler = torch.utils.data.BatchSampler(torch.utils.data.SequentialSampler(dataset), 8, drop_last=False)
    if size is None:
        del sampler.batch_size
    loader = torch.utils.data.DataLoader(dataset, batch_sampler=sampler)
    assert loader.batch_size is None
    if size:
        assert calendar.iterations_of_an_epoch(loader) == 5
    else:
        with pytest.raises(ValueError, match="the batch sampler has no batch_size, so set interval"):
            calendar.iterations_of_an_epoch(loader)


def test_a_finished_run_that_goes_on_is_not_pruned_again(tmp_path, caplog):
    first = train(tmp_path, length=3, arguments={"evaluate_finalize": True})
    longer = settings(length=5, resume=True, arguments={"evaluate_finalize": True})
    with caplog.at_level("INFO"):
        runner = toy_run.make_runner(tmp_path, **longer)
        runner.logger = MagicMock()
        runner.train()
    pruner = pruning_hook(runner).pruner
    assert runner.epoch == 5
    assert pruner.report() == pruning_hook(first).pruner.report()
    assert pruning_hook(runner).results == pruning_hook(first).results
    assert zeros(runner.model.state_dict()) == zeros(first.model.state_dict())
    texts = [call.args[0] for call in runner.logger.info.call_args_list]
    assert any("Pruning was finished in the run that is resumed" in text for text in texts)
    assert not any(text.startswith("Prune step") for text in texts)


def freeze(model):
    """As ``norm_eval=True`` does."""
    train_mode = model.train

    def train_without_norms(mode=True):
        train_mode(mode)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()

    model.train = train_without_norms


@pytest.mark.parametrize(
    ("pruner", "arguments", "message"),
    [
        ({"rate": 0.5}, {}, "pruner.rate is 0.5 here but was 0.4 in the run to resume"),
        ({"criterion": "l1"}, {}, "pruner.criterion"),
        ({"decay_schedule": {"type": "ExpDecay", "sigma": 1e-3}}, {}, "pruner.decay_schedule"),
        ({"exclude": "layer1"}, {}, "pruner.exclude"),
        ({}, {"interval": 2}, "FilterPruningHook.interval is 2 here but was None"),
        ({}, {"finetune": 1}, "FilterPruningHook.finetune is 1 here but was 0"),
    ],
)
def test_resuming_with_another_setting(tmp_path, pruner, arguments, message):
    train(tmp_path, length=2)
    runner = toy_run.make_runner(tmp_path, resume=True, **settings(pruner=pruner, arguments=arguments, length=4))
    with pytest.raises(ValueError, match=message):
        runner.train()


def test_resuming_a_dense_run_and_loading_weights_only(tmp_path):
    toy_run.make_runner(tmp_path / "dense", length=2, seed=3, model={"type": "ToyPrunedModel"}).train()
    runner = toy_run.make_runner(tmp_path / "dense", resume=True, **settings(length=4, arguments={"report": False}))
    runner.logger = MagicMock()
    runner.train()
    texts = [call.args[0] for call in runner.logger.warning.call_args_list]
    assert sum("holds no pruning state" in text for text in texts) == 1
    loaded = train(tmp_path / "new", length=1, load_from=str(tmp_path / "dense" / "epoch_4.pth"))
    assert [entry["t"] for entry in pruning_hook(loaded).pruner.history.entries] == [0, 0]


def test_a_tail_that_leaves_no_training_is_warned_of(tmp_path):
    for snap, warned in ((0.96, True), (0.9, False)):
        share = {"type": "CubicHardShare", "snap_at": snap}
        runner = toy_run.make_runner(tmp_path, **settings(pruner={"hard_schedule": share, "rate": 0.5}, length=20))
        runner.logger = MagicMock()
        found = pruning_hook(runner)
        _ = runner.train_loop
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        runner.call_hook("before_run")
        found.before_train(runner)
        texts = [call.args[0] for call in runner.logger.warning.call_args_list]
        assert any("masks still grow in the last 1 of 20 steps" in text for text in texts) == warned


@TASK_UTILS.register_module(force=True)
class StepRate(ConstantRate):
    """A schedule of the user's own."""

    def curve(self, t, total):
        return 0.0


@TASK_UTILS.register_module(force=True)
class Backwards:
    """A criterion of the user's own: the last filters first."""

    def __call__(self, filters, context):
        return -torch.arange(len(filters), device=filters.device, dtype=torch.float32)


def test_classes_of_the_user(tmp_path):
    pruner = {"method": "sfp", "rate_schedule": {"type": "StepRate"}, "criterion": {"type": "Backwards"}}
    runner = train(tmp_path, pruner=pruner, length=3)
    pruner = pruning_hook(runner).pruner
    assert pruner.masks["conv1"].tolist() == [False] * 5 + [True] * 3
    assert [sum(entry["pruned"]) for entry in pruner.history.entries] == [0, 0, 21, 21]


def test_single_weights(tmp_path):
    runner = train(tmp_path, pruner={"type": "WeightPruner", "rate": 0.5}, length=3, log_level="INFO")
    state = load(tmp_path / "iter_12.pth" if (tmp_path / "iter_12.pth").exists() else tmp_path / "epoch_3.pth")
    weight = state["state_dict"]["backbone.layer1.conv1.weight"]
    assert int((weight == 0).sum()) == weight.numel() // 2
    assert state["mmkdprune"]["pruning"]["units"]["layer1.conv1"]["pruned"].shape == weight.shape
    (text,) = [path.read_text() for path in tmp_path.glob("*/*.log")]
    assert "weights are zero" in text
    assert pruning_hook(runner).pruner.fully_pruned


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pruner": 0.4}, "pruner must be a dict, got 0.4"),
        ({"pruner": {"rate": 0.4}}, r"pruner needs method \(one of hfp, sfp"),
        ({"pruner": {"method": "sfp"}}, "pruner needs a rate"),
        ({"pruner": {"method": "sfp", "rate": 1.0}}, r"pruner.rate must be a number in \[0, 1\), got 1.0"),
        ({"pruner": {"method": "gfp", "rate": 0.4}}, "method must be one of 'hfp'"),
        ({"pruner": {"type": "Pruna", "rate": 0.4}}, "pruner.type: nothing is registered as 'Pruna'"),
        (
            {"pruner": {"method": "sfp", "rate": 0.4, "exclud": "a"}},
            "FilterPruner has no argument 'exclud'; it has rate",
        ),
        (
            {"pruner": {"method": "fpgm", "rate": 0.4, "type": "WeightPruner"}},
            "WeightPruner ranks single weights by magnitude and has no criterion, which method='fpgm'",
        ),
        (
            {"pruner": {"method": "srfp", "rate": 0.4, "decay_schedule": {"type": "ExpDecay", "sigm": 1}}},
            "pruner.decay_schedule: .*unexpected keyword argument 'sigm'",
        ),
        (
            {"pruner": {"method": "srfp", "rate": 0.4, "decay_schedule": {"type": "Nothing"}}},
            "pruner.decay_schedule: nothing is registered as 'Nothing'",
        ),
        ({"pruner": {"method": "srfp", "rate": 0.4, "decay_schedule": {"sigma": 1}}}, "decay_schedule needs a type"),
        (
            {"pruner": {"method": "asfp", "rate": 0.4, "rate_schedule": {"type": "CubicRate", "rate": 0.3}}},
            "rate_schedule of asfp must end at rate=0.4",
        ),
        ({"interval": 0}, "FilterPruningHook.interval must be a whole number of 1 or more or None, got 0"),
        ({"interval": -1}, "interval"),
        ({"warmup": -1}, "FilterPruningHook.warmup must be a whole number of 0 or more, got -1"),
        ({"finetune": 1.5}, "FilterPruningHook: finetune must be a whole number"),
        ({"recalibrate_bn": True}, "FilterPruningHook: recalibrate_bn must be a whole number"),
    ],
)
def test_mistakes_are_found_when_the_hook_is_built(arguments, message):
    with pytest.raises(ValueError, match=message):
        FilterPruningHook(**{"pruner": {"method": "sfp", "rate": 0.4}, **arguments})


@pytest.mark.parametrize(
    ("pruner", "arguments", "message"),
    [
        ({"include": "layer9"}, {}, "include: 'layer9' matches none"),
        ({"scope": "student"}, {}, "scope 'student' is no module of ToyPrunedModel"),
        ({}, {"warmup": 2, "finetune": 2}, "warmup=2 and finetune=2 leave none of the run's 4 epochs"),
    ],
)
def test_mistakes_that_need_the_model_are_found_before_training(tmp_path, pruner, arguments, message):
    runner = toy_run.make_runner(tmp_path, **settings(pruner=pruner, arguments=arguments, length=4))
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert runner.iter == 0


def test_sharded_models_are_refused(tmp_path):
    runner = toy_run.make_runner(tmp_path, **settings(length=1))

    @MODELS.register_module(force=True)
    class MMFullyShardedDataParallel(nn.Module):
        pass

    for part, name in (
        ({"model": MMFullyShardedDataParallel()}, "MMFullyShardedDataParallel"),
        ({"strategy": type("DeepSpeedStrategy", (), {})()}, "DeepSpeedStrategy"),
    ):
        fake = MagicMock(model=part.get("model", runner.model), strategy=part.get("strategy"))
        with pytest.raises(
            ValueError, match=rf"sharded over processes \({name}\): train with MMDistributedDataParallel"
        ):
            run.refuse_sharded(fake)
    run.refuse_sharded(runner)


def test_the_hook_stands_between_averaging_and_saving(tmp_path):
    names = [type(hook).__name__ for hook in toy_run.make_runner(tmp_path, **settings()).hooks]
    order = ["EMAHook", "FilterPruningHook", "LoggerHook", "RandomStateHook", "CheckpointHook"]
    assert sorted(order, key=names.index) == order


def test_stopping_early_is_said(tmp_path):
    interruption = {"type": "EarlyStoppingHook", "monitor": "acc", "patience": 1}
    runner = toy_run.make_runner(tmp_path, **settings(interruption, pruner={"method": "hfp"}, length=9))
    runner.logger = MagicMock()
    toy_run.ToyAccuracy.compute_metrics, original = (
        lambda self, results: {"acc": 0.5},
        toy_run.ToyAccuracy.compute_metrics,
    )
    try:
        runner.train()
    finally:
        toy_run.ToyAccuracy.compute_metrics = original
    assert runner.epoch < 9
    texts = [call.args[0] for call in runner.logger.warning.call_args_list]
    assert any("training ended before the last prune step; the network is pruned, but" in text for text in texts)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mixed_precision(tmp_path, dtype):
    optim_wrapper = {
        "type": "AmpOptimWrapper",
        "dtype": dtype,
        "optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9},
    }
    runner = train(tmp_path, {"type": "CheckZeros"}, optim_wrapper=optim_wrapper, length=4)
    assert pruning_hook(runner).pruner.masks["conv1"].is_cuda
    assert zeros(runner.model.state_dict()) == {name: math.floor(size * 0.4) for name, size in LAYERS.items()}
