import json
import subprocess
import sys
from pathlib import Path

import pytest
from testing_helpers import REPOSITORY

from mmkdprune.pruning import preset


def run(*arguments, status=0):
    command = [sys.executable, *map(str, arguments)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.mark.slow
def test_step_time(tmp_path):
    out = tmp_path / "step_time.json"
    command = ["benchmarks/step_time.py", "--case", "digits", "--rounds", 2, "--warmup", 1, "--out", out]
    assert "time_over_flops" in run(*command)
    plain, mixskd = json.loads(out.read_text())["rows"]
    assert (plain["method"], plain["time_ratio"], plain["flops_ratio"]) == ("plain", 1, 1)
    # twice the images; the deployable network has 3 stages, the branches 2 more and 1 more, of about equal cost
    assert 3.5 < mixskd["flops_ratio"] < 4.5
    assert mixskd["step_ms"] > plain["step_ms"]
    assert mixskd["peak_memory_mib"] > 0
    assert "exists already" in run(*command, status=1)


@pytest.fixture
def rows(tmp_path):
    row = {"config": "configs/a.py", "overrides": [], "epochs_run": 20, "epochs_planned": 20}
    for seed, last, best in ((0, 99.0, 99.5), (1, 98.0, 99.0)):
        file = tmp_path / f"train_a_seed{seed}.json"
        file.write_text(json.dumps({**row, "seed": seed, "top1_last": last, "top1_best": best}))
    file = tmp_path / "train_b_seed0.json"
    file.write_text(
        json.dumps({**row, "config": "configs/b.py", "epochs_run": 5, "seed": 0, "top1_last": 90.0, "top1_best": 91.0})
    )
    return sorted(tmp_path.glob("*.json"))


def test_table_of_training_rows(rows):
    output = run("benchmarks/train_rows.py", "--table", *rows)
    assert "| `a` | 20 | 98.50 ± 0.71 | 99.25 ± 0.35 | 0, 1 |" in output
    assert "| `b` | 5 of 20 | 90.00 | 91.00 | 0 |" in output


def config_of(row: Path) -> Path:
    return Path(json.loads(row.read_text())["config"])


def test_documented_tables_are_those_of_the_result_files():
    results = REPOSITORY / "benchmarks" / "results"
    files = sorted(results.glob("train_*.json"))
    folders = {config_of(file).parent for file in files}
    for folder in (Path("benchmarks"), *sorted(folders)):
        own = [file for file in files if folder.name == "benchmarks" or config_of(file).parent == folder]
        training = run("benchmarks/train_rows.py", "--table", *own).strip()
        text = (REPOSITORY / folder / "README.md").read_text()
        assert all(line in text for line in training.splitlines() if line.startswith("|")), folder
    text = (REPOSITORY / "benchmarks" / "README.md").read_text()
    rows = [row for file in sorted(results.glob("step_time_*.json")) for row in json.loads(file.read_text())["rows"]]
    assert len(rows) >= 13
    for row in rows:
        values = (row[key] for key in ("case", "method", "batch_size", "step_ms", "time_ratio", "flops_ratio"))
        assert "| " + " | ".join(map(str, values)) in text


@pytest.mark.slow
def test_prune_step(tmp_path):
    out = tmp_path / "prune_step.json"
    command = ["benchmarks/prune_step.py", "--depth", 18, "--batch-size", 2, "--size", 64, "--rounds", 1, "--out", out]
    assert "step_over_epoch" in run(*command)
    rows = json.loads(out.read_text())["rows"]
    assert [row["case"] for row in rows] == ["ghfp-asrfp", "ghfp-asrfp, group", "fpgm", "weights, ghfp-asrfp"]
    # two masks of a byte a filter, or a byte a weight of four bytes
    assert all(row["state_over_weights"] < 0.002 for row in rows[:3])
    assert 0.4 < rows[3]["state_over_weights"] <= 0.5
    assert all(row["step_ms"] > 0 < row["enforce_ms"] for row in rows)
    assert "exists already" in run(*command, status=1)


def test_documented_pruning_results_are_those_of_the_result_files():
    results = REPOSITORY / "benchmarks" / "results"
    text = (REPOSITORY / "benchmarks" / "README.md").read_text()
    rows = json.loads((results / "prune_step_cpu.json").read_text())["rows"]
    assert all("| " + " | ".join(map(str, row.values())) + " |" in text for row in rows)
    for row in rows:
        assert row["step_over_epoch"] < 0.02
        assert row["enforce_over_train"] < 0.03
    table = run("benchmarks/pruning_rows.py", "--table", *sorted(results.glob("prune_*seed*.json")))
    steps = run("benchmarks/pruning_rows.py", "--steps", "--table", *sorted(results.glob("prune_*_3e_seed*.json")))
    text = (REPOSITORY / "configs" / "pruning" / "README.md").read_text()
    for line in (table + steps).splitlines():
        assert not line.startswith("|") or line in text, line


def test_recorded_runs_went_along_their_schedules():
    files = sorted((REPOSITORY / "benchmarks" / "results").glob("prune_*seed*.json"))
    assert len(files) > 40
    for file in files:
        row = json.loads(file.read_text())
        method = row["pruning"]["method"].removeprefix("weights-").removesuffix("-mix").removesuffix("-follow")
        schedules = [preset(method, 0.4)[name] for name in ("rate_schedule", "decay_schedule", "hard_schedule")]
        steps = [step for step in row["pruning"]["steps"] if not step["final"]]
        assert [step["t"] for step in steps] == list(range(row["epochs_run"]))
        for step in steps:
            expected = [schedule(step["t"], row["epochs_run"]) for schedule in schedules]
            assert [step["rate"], step["decay"], step["hard_share"]] == expected
        assert row["pruning"]["exact_in_every_layer"]
        assert row["pruning"]["zero"] == steps[-1]["zero"]


def test_table_of_pruning_rows(tmp_path):
    files = []
    for seed, before, after in ((0, 90.0, 80.0), (1, 92.0, 84.0)):
        pruning = {"method": "sfp", "rate": 0.4, "top1_before": before, "top1_after": after}
        pruning |= {"zero": 4, "filters": 10, "exact_in_every_layer": True}
        row = {"variant": "a_cifar100", "seed": seed, "epochs_run": 3, "epochs_planned": 200, "pruning": pruning}
        files.append(tmp_path / f"{seed}.json")
        files[-1].write_text(json.dumps(row))
    line = "| cifar100 | 3 of 200 | sfp | 0.4 | 91.00 ± 1.41 | 82.00 ± 2.83 | 4 of 10 | yes | 0, 1 |"
    assert line in run("benchmarks/pruning_rows.py", "--table", *files)


@pytest.mark.slow
def test_pruning_row(tmp_path):
    match = "^hfp-0.4_resnet20_1xb64-20e_digits-16px$"
    folders = ("--results", tmp_path / "results", "--work-dirs", tmp_path / "runs")
    output = run("benchmarks/pruning_rows.py", "--match", match, "--epochs", 1, *folders)
    assert "| digits-16px | 1 of 20 | hfp | 0.4 |" in output
    (file,) = (tmp_path / "results").glob("*.json")
    row = json.loads(file.read_text())
    assert row["pruning"]["exact_in_every_layer"]
    assert (row["epochs_run"], row["runs_timed"], row["seed"]) == (1, 1, 0)


@pytest.mark.slow
def test_compact_latency(tmp_path):
    out = tmp_path / "compact_latency.json"
    command = ["benchmarks/compact_latency.py", "--networks", "resnet18", "--rates", 0.4, "--batch-sizes", 2]
    command += ["--cases", "group", "scatter", "--size", 64, "--rounds", 1, "--out", out]
    assert "of_ideal" in run(*command)
    content = json.loads(out.read_text())
    assert {row["case"] for row in content["rows"]} == {"group", "scatter"}
    for row in content["rows"]:
        assert row["speedup"] == pytest.approx(row["dense_ms"] / row["compact_ms"], rel=0.05)
        assert row["ideal"] > 1.8
    assert all(row["seconds"] > 0 for row in content["compaction"])
    assert "exists already" in run(*command, status=1)


def test_documented_compact_latencies_are_those_of_the_result_files():
    text = (REPOSITORY / "benchmarks" / "README.md").read_text()
    files = sorted((REPOSITORY / "benchmarks" / "results").glob("compact_latency*.json"))
    assert files
    for file in files:
        for row in json.loads(file.read_text())["rows"]:
            if row["batch"] == 32:
                assert "| " + " | ".join(map(str, row.values())) + " |" in text, file
