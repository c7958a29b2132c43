"""Whole pruned runs of the Digits configs."""

import json
import math

import pytest
import training_helpers
from mmengine.config import Config
from mmengine.runner import Runner
from testing_helpers import REPOSITORY
from training_helpers import assert_same, go_back_to, load

PLAIN = "plain_resnet20_1xb64-20e_digits-16px"
COMBINED = "combined/mixskd-ghfp-asrfp_resnet20_1xb64-20e_digits-16px"


def run(work_dir, config, epochs=3, **options):
    """Train on 96 digits and return the last checkpoint."""
    training_helpers.run(work_dir, config, epochs, **{"default_hooks.checkpoint.max_keep_ckpts": -1, **options})
    return load(work_dir, epochs)


@pytest.fixture(scope="module")
def combined(tmp_path_factory):
    return run(tmp_path_factory.mktemp("combined"), COMBINED)


def test_the_student_is_pruned_and_nothing_else(combined):
    units = combined["mmkdprune"]["pruning"]["units"]
    assert len(units) == 19
    for name, weight in combined["state_dict"].items():
        if weight.ndim != 4:
            continue
        zero = int((weight == 0).flatten(1).all(1).sum())
        layer = name.removeprefix("backbone.").removesuffix(".weight")
        assert zero == (math.floor(0.4 * len(weight)) if layer in units and name.startswith("backbone.") else 0), name
    assert {"branches", "self_teacher"} <= {name.split(".")[0] for name in combined["state_dict"]}


def test_resumed_run_is_the_same_bit_for_bit(combined, tmp_path):
    run(tmp_path, COMBINED)
    go_back_to(tmp_path, 2)
    resumed = run(tmp_path, COMBINED, resume=True)
    for part in ("state_dict", "optimizer", "param_schedulers", "mmkdprune"):
        assert_same(combined[part], resumed[part], part)


def test_rate_zero_is_the_distillation_alone_bit_for_bit(tmp_path):
    pruned = run(tmp_path / "pruned", COMBINED, epochs=2, **{"custom_hooks.0.pruner.rate": 0.0})
    alone = run(tmp_path / "alone", "mixskd/mixskd_resnet20_1xb64-20e_digits-16px", epochs=2)
    for part in ("state_dict", "optimizer"):
        assert_same(pruned[part], alone[part], part)
    assert_same(pruned["mmkdprune"]["random_state"], alone["mmkdprune"]["random_state"])


def train_on_digits(work_dir, hooks) -> None:
    """The Digits configs with a third of the layers and fewer epochs."""
    config = Config.fromfile(REPOSITORY / "configs" / "mixskd" / f"{PLAIN}.py")
    config.custom_hooks = [*hooks, *config.get("custom_hooks", [])]
    options = {"work_dir": str(work_dir), "randomness.seed": 0, "model.backbone.depth": 8}
    options |= {"train_cfg.max_epochs": 10, "train_cfg.val_interval": 10, "default_hooks.checkpoint.interval": 10}
    options |= {"param_scheduler.1.end": 10, "param_scheduler.1.T_max": 7}
    config.merge_from_dict(options)
    Runner.from_cfg(config).train()


@pytest.fixture(scope="module")
def plain_accuracy(tmp_path_factory) -> float:
    folder = tmp_path_factory.mktemp("plain")
    train_on_digits(folder, [])
    (log,) = folder.glob("*/vis_data/scalars.json")
    rows = map(json.loads, log.read_text().splitlines())
    return next(row["accuracy/top1"] for row in rows if "accuracy/top1" in row)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sfp", "asfp", "srfp", "asrfp"])
def test_soft_methods_end_near_the_plain_network_by_default(method, plain_accuracy, tmp_path, one_thread):
    """One seed; under the default of earlier versions they ended near chance."""
    pruner = {"method": method, "rate": 0.4}
    train_on_digits(tmp_path, [{"type": "mmkdprune.FilterPruningHook", "pruner": pruner, "evaluate_finalize": True}])
    report = json.loads((tmp_path / "pruning_report.json").read_text())
    assert plain_accuracy > 95
    assert report["after_finalize"]["accuracy/top1"] > plain_accuracy - 2
    assert report["warnings"] == {}
