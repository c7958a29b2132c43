"""Runs that collapse say so; healthy ones do not."""

import pytest
import toy_run
from toy_nets import make_classifier
from toy_pruning_run import pruning_hook, train

from mmkdprune.engine.pruning import collapse
from mmkdprune.pruning import make_pruner

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("method", "policy", "warned"),
    [
        *(("sfp", "hard_only", True), ("ghfp-asrfp", "hard_only", True), ("srfp", "none", True)),
        *(("sfp", "follow", False), ("sfp", "scale", False), ("hfp", "hard_only", False), ("fpgm", "hard_only", False)),
    ],
)
@pytest.mark.filterwarnings("ignore:bn_policy='none'")
def test_soft_filters_before_batch_norms(method, policy, warned):
    message = collapse.soft_filters_before_norms(make_pruner(make_classifier(), method, 0.4, bn_policy=policy))
    assert bool(message) == warned
    assert not warned or "conv1 the first" in message


def test_networks_without_batch_norm_may_have_any_policy():
    network = make_classifier()
    for name, module in list(network.named_modules()):
        if "bn" in name.rpartition(".")[2]:
            parent = network.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], type(network.backbone.layer1.downsample)())
            assert module is not None
    assert not collapse.soft_filters_before_norms(make_pruner(network, "sfp", 0.4, bn_policy="hard_only"))


@pytest.mark.parametrize(
    ("overlap", "rate", "warned"),
    [(0.69, 0.4, True), (0.69, 0.38, True), (0.69, 0.37, False), (0.7, 0.4, False), (None, 0.4, False)],
)
def test_masks_that_jump(overlap, rate, warned):
    assert bool(collapse.masks_that_jump({"overlap": overlap, "rate": rate}, 0.4)) == warned


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({"accuracy/top1": 90.0}, {"accuracy/top1": 84.9}, "accuracy/top1 fell by 5.1 points"),
        ({"accuracy/top1": 90.0}, {"accuracy/top1": 85.0}, ""),
        ({"coco/bbox_mAP": 0.40}, {"coco/bbox_mAP": 0.34}, "coco/bbox_mAP fell by 6.0 points"),
        ({"mIoU": 50.0, "aAcc": 90.0}, {"mIoU": 49.0, "aAcc": 80.0}, ""),  # what the task is judged by
        ({"loss": 9.0, "acc": 0.9}, {"loss": 1.0, "acc": 0.8}, "acc fell by 10.0 points"),
        ({}, {}, ""),
    ],
)
def test_accuracy_lost(before, after, message):
    assert collapse.accuracy_lost(before, after).startswith(message)
    assert bool(collapse.accuracy_lost(before, after)) == bool(message)


def run(tmp_path, monkeypatch, accuracies, **pruner):
    values = iter(accuracies)
    monkeypatch.setattr(toy_run.ToyAccuracy, "compute_metrics", lambda self, results: {"acc": next(values, 90.0)})
    runner = train(
        tmp_path, pruner=pruner, arguments={"evaluate_finalize": True}, length=4, ema=False, log_level="INFO"
    )
    (log,) = tmp_path.glob("*/*.log")
    return pruning_hook(runner).results["warnings"], log.read_text()


def test_a_run_that_collapses_says_so(tmp_path, monkeypatch):
    # three validations of epochs, then before and after finalize
    monkeypatch.setattr(collapse, "LEAST_OVERLAP", 1.1)
    found, log = run(tmp_path, monkeypatch, [90.0] * 4 + [70.0], method="sfp", bn_policy="hard_only")
    assert list(found) == ["bn_policy", "masks", "accuracy"]
    for message in found.values():
        assert log.count(message) == 1  # once, though the masks jump at every step


def test_a_healthy_run_says_nothing(tmp_path, monkeypatch):
    found, log = run(tmp_path, monkeypatch, [90.0] * 4 + [89.0], method="sfp")
    assert found == {}
    assert "WARNING - FilterPruningHook" not in log
