import json

import pytest
from toy_nets import make_classifier, make_task, train_pruned

from mmkdprune.pruning import WeightPruner, make_pruner, make_report, plot_report, report_from_scalars, save_report


@pytest.fixture(scope="module")
def pruner():
    model = make_classifier()
    pruner = make_pruner(model, "ghfp-asrfp", 0.4)
    train_pruned(model, pruner, make_task(), 6, 3)
    pruner.finalize()
    return pruner


def test_report_of_every_step(pruner):
    report = make_report(pruner, method="ghfp-asrfp")
    assert [step["t"] for step in report["steps"]] == [0, 1, 2, 3, 4, 5, 5]
    assert [step["final"] for step in report["steps"]] == [False] * 6 + [True]
    assert report["steps"] == make_report(pruner.state_dict())["steps"]
    assert report["settings"]["hard_schedule"] == "CubicHardShare(snap_at=0.9)"
    first, *_, last = report["steps"]
    assert (first["pruned"], first["overlap"]) == (0, None)
    assert (last["pruned"], last["zero"], last["hard"], last["filters"]) == (28, 28, 28, 70)
    assert last["layers"]["layer2.conv1"] == {
        "filters": 20, "pruned": 8, "hard": 8, "zero": 8, "overlap": 1.0, "revived": 0.0
    }  # fmt: skip
    assert pruner.report() == {**last, "finalized": True}
    assert json.loads(json.dumps(report)) == report


def test_files(pruner, tmp_path):
    files = save_report(make_report(pruner, before_finalize={"accuracy/top1": 98.5}), tmp_path / "new")
    assert [file.name for file in files] == ["pruning_report.json", "pruning_report.png"]
    assert files[1].read_bytes().startswith(b"\x89PNG")
    assert json.loads(files[0].read_text())["before_finalize"] == {"accuracy/top1": 98.5}
    empty = make_pruner(make_classifier(), "sfp", 0.4)
    assert [file.suffix for file in save_report(make_report(empty), tmp_path)] == [".json"]
    assert empty.report() == {}


def test_pictures_of_large_and_of_short_runs(tmp_path):
    model = make_classifier()
    pruner = make_pruner(model, "sfp", 0.5, pruner=WeightPruner)
    pruner.step(0, 1)
    assert plot_report(make_report(pruner), tmp_path / "short.png").stat().st_size > 10_000
    report = make_report(pruner)
    report["steps"][0]["layers"] = {
        f"layer{index}": report["steps"][0]["layers"]["layer1.conv1"] for index in range(150)
    }
    assert plot_report(report, tmp_path / "large.png").stat().st_size > 10_000


def test_report_from_logged_scalars():
    rows = [
        {"pruning/items/conv1": 10, "pruning/items/conv2": 20, "step": 0},
        {"loss": 1.0, "step": 5},
        {"pruning/t": 0, "pruning/rate": 0.3, "pruning/decay": 0.5, "pruning/hard_share": 0.2, "pruning/pruned": 9,
         "pruning/hard": 1,
         "pruning/zero": 1, "pruning/zero/conv1": 1, "pruning/zero/conv2": 0, "pruning/overlap": 0.5, "step": 1},
    ]  # fmt: skip
    report = report_from_scalars(rows)
    (step,) = report["steps"]
    assert (step["t"], step["filters"], step["pruned"], step["overlap"], step["revived"]) == (0, 30, 9, 0.5, None)
    assert step["layers"]["conv1"]["filters"] == 10
    assert report_from_scalars(rows[1:2])["steps"] == []
