"""``prune`` in a config, ``--prune`` on the command line, and one pruner a run."""

import re

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from testing_helpers import REPOSITORY

from mmkdprune.engine.pruning.builder import PrunerBuilder
from mmkdprune.engine.pruning.field import apply_prune, check_single, use_prune
from mmkdprune.models import CifarResNet

PLAIN = REPOSITORY / "configs/mixskd/plain_resnet20_1xb64-20e_digits-16px.py"
HOOK = {"type": "mmkdprune.FilterPruningHook", "pruner": {"method": "sfp", "rate": 0.3}}
FEW = ("train_cfg.max_epochs=2", "train_dataloader.dataset.indices=24", "val_dataloader.dataset.indices=8")
FEW = (*FEW, "train_dataloader.batch_size=8", "default_hooks.logger.interval=1")


def test_it_joins_the_default_hooks():
    config = Config({"custom_hooks": [{"type": "EMAHook"}], "default_hooks": {"logger": {"type": "LoggerHook"}}})
    config.prune = {"pruner": {"method": "sfp", "rate": 0.3}, "warmup": 2}
    apply_prune(config)
    assert "prune" not in config
    assert [hook.type for hook in config.custom_hooks] == ["EMAHook"]
    assert list(config.default_hooks) == ["logger", "pruning"]
    assert config.default_hooks.pruning == {**HOOK, "warmup": 2}
    apply_prune(config)  # nothing is left to do


def test_options_over_the_field():
    config = {}
    use_prune(config, "asrfp", 0.5)
    assert config["prune"]["pruner"] == {"method": "asrfp", "rate": 0.5, "coupling": "group"}
    use_prune(config, "sfp", coupling="independent")
    assert config["prune"]["pruner"] == {"method": "sfp", "rate": 0.5, "coupling": "independent"}
    use_prune(config, "sfp", target={"latency": 0.5}, ranking="layer")
    pruner = {"method": "sfp", "target": {"latency": 0.5}, "coupling": "independent", "ranking": "layer"}
    assert config["prune"]["pruner"] == pruner
    with pytest.raises(ValueError, match="--prune sfp needs --rate"):
        use_prune({}, "sfp")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"prune": 0.4}, "prune must be a dict of arguments of FilterPruningHook.*got 0.4"),
        ({"prune": {"pruner": {}}, "custom_hooks": [HOOK]}, r"a FilterPruningHook in custom_hooks\[0\] already"),
        ({"prune": {"pruner": {}}, "default_hooks": {"x": HOOK}}, "in default_hooks.x already"),
    ],
)
def test_bad_fields(config, message):
    with pytest.raises(ValueError, match=message):
        apply_prune(config)


def test_two_pruning_hooks_are_refused_by_name(tmp_path):
    check_single({"custom_hooks": [HOOK]})
    two = {"custom_hooks": [{"type": "EMAHook"}, HOOK], "default_hooks": {"pruning": HOOK, "timer": None}}
    with pytest.raises(
        ValueError, match=r"in custom_hooks\[1\] and in default_hooks.pruning, but one run has one pruner"
    ):
        check_single(two)
    with pytest.raises(ValueError, match="one run has one pruner"):
        Runner.from_cfg(Config({"model": {}, "work_dir": str(tmp_path), **two}))


@pytest.mark.slow
def test_prune_on_the_command_line_then_compact(call, tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "mine.py"
    config.write_text(f"_base_ = ['{PLAIN}', 'mmkdprune::_base_/prune.py']\n")
    code, printed = call("train", config, "--prune", "ghfp-sfp", "--rate", 0.3, "--cfg-options", *FEW)
    assert code == 0, printed
    assert "ghfp-sfp, rate 0.3 of" in printed
    run = tmp_path / "work_dirs" / "mine"
    assert (run / "pruning_report.json").is_file()
    stored = Config.fromstring(torch.load(run / "epoch_2.pth", weights_only=True)["meta"]["cfg"], ".py")
    assert stored.default_hooks.pruning.pruner.coupling == "group"
    code, printed = call("compact", run / "mine.py", run / "epoch_2.pth", "--out", tmp_path / "small")
    assert code == 0, printed
    assert "pruning" not in Config.fromfile(tmp_path / "small" / "config.py").default_hooks


def test_bad_options(call):
    for option in (("--rate", 0.4), ("--target-latency", 0.5), ("--ranking", "global")):
        assert "--coupling and --ranking are options of --prune" in call("train", PLAIN, *option)[1]
    both = ("--target-macs", 0.5, "--target-latency", 0.5)
    assert "not allowed with argument" in call("train", PLAIN, "--prune", "sfp", *both)[1]
    assert "--prune sfp needs --rate" in call("train", PLAIN, "--dry-run", "--prune", "sfp")[1]
    code, printed = call("train", PLAIN, "--dry-run", "--prune", "sfpp", "--rate", 0.4)
    assert code
    assert "sfpp" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("pruner", "message"),
    [
        ({"method": "sfp"}, r"pruner needs a rate.*or a target"),
        ({"method": "sfp", "rate": 0.4, "target": {"macs": 0.5}}, "pruner.rate and pruner.target both say"),
        ({"method": "sfp", "rate_map": {"a": 0.4}, "target": {"macs": 0.5}}, "pruner.rate_map and pruner.target both"),
        ({"method": "sfp", "coupling": "independent", "target": {"macs": 0.5}}, "take coupling='group'"),
        ({"method": "sfp", "type": "WeightPruner", "target": {"macs": 0.5}}, "WeightPruner needs a rate"),
        ({"method": "sfp", "target": {"macs": 2}}, "target.macs"),
        ({"method": "sfp", "target": {"latency": 0}}, "target.latency"),
        ({"method": "sfp", "target": {"macs": 0.5, "batch_size": 8}}, "target.batch_size is for a target of latency"),
        ({"method": "sfp", "target": {"latency": 0.5}, "ranking": "global"}, "target.latency is measured before"),
    ],
)
def test_bad_targets(pruner, message):
    with pytest.raises(ValueError, match=message):
        PrunerBuilder(pruner)


def test_a_target_is_solved_once_the_model_is_there():
    model = CifarResNet(20)
    builder = PrunerBuilder({"method": "asrfp", "target": {"macs": 0.5}, "example_input": (3, 16, 16)})
    pruner = builder(model)
    assert builder.budget.after.macs / builder.budget.before.macs == pytest.approx(0.5, rel=0.02)
    assert pruner.rate == builder.budget.rate
    assert pruner.round_to == 8
    assert pruner.selection.coupling == "group"
    kept = {unit.name: unit.size - number for unit, (number, _) in zip(pruner.units, pruner.counts(9, 10), strict=True)}
    assert kept == {name: number for name, (_, number) in builder.budget.kept.items()}


def clock(network, images):
    """Seconds that a pass takes."""
    return 1e-3 * sum(parameter.numel() for parameter in network.parameters())


def test_a_latency_is_measured_once_and_then_read():
    model, target = CifarResNet(20), {"latency": 0.5, "batch_size": 2}
    config = {"method": "asrfp", "target": target, "round_to": 4}
    builder = PrunerBuilder(config)
    assert builder.needs_image
    builder.timer = clock
    pruner = builder(model, image=(3, 16, 16))
    assert builder.budget.images == (2, 3, 16, 16)
    assert builder.budget.latency.share == pytest.approx(0.5, rel=0.02)
    again = PrunerBuilder(config)
    again.timer = None  # must not be called
    other = again(model, builder.budget.state_dict())
    assert again.budget == builder.budget
    assert other.settings() == pruner.settings()
    with pytest.raises(
        ValueError, match=r"pruner\.target is {'latency': 0.6} here but was {'latency': 0.5, 'batch_size': 2}"
    ):
        PrunerBuilder({**config, "target": {"latency": 0.6}})(model, builder.budget.state_dict())


def test_a_global_ranking_has_the_target_itself():
    model = CifarResNet(20)
    config = {"method": "sfp", "target": {"macs": 0.5}, "ranking": "global", "round_to": 4}
    pruner = PrunerBuilder(config)(model, image=(3, 16, 16))
    assert not pruner.selection.rate_map
    assert (pruner.ranking, pruner.limit.share) == ("global", 0.5)
    pruner.step(0, 1)
    left = pruner.limit.left(np.array([unit.pruned_count for unit in pruner.units]))
    assert left == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize(
    "options", [("--target-macs", 0.5), ("--target-macs", 0.5, "--ranking", "global"), ("--target-latency", 0.5)]
)
def test_target_in_a_dry_run(call, tmp_path, monkeypatch, one_thread, options):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(PrunerBuilder, "timer", staticmethod(clock))
    few = ("train_dataloader.dataset.indices=16", "val_dataloader.dataset.indices=8", "train_dataloader.batch_size=8")
    code, printed = call("train", PLAIN, "--dry-run", "--prune", "asrfp", *options, "--cfg-options", *few)
    assert code == 0, printed
    assert "asrfp, rate 0." in printed
    assert "backbone, compact, will have " in printed
    assert bool(re.search(r" ms for 32 images of \d x 16 x 16 on ", printed)) == ("--target-latency" in options), (
        printed
    )
    assert "dry run: all of this works" in printed
