import json

import pytest
from testing_helpers import run_script as run


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
    assert mixskd["straightforward_ms"] > plain["straightforward_ms"] > 0
    assert mixskd["peak_memory_mib"] > 0
    assert "exists already" in run(*command, status=1)


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


@pytest.mark.slow
def test_loader(tmp_path):
    out = tmp_path / "loader.json"
    small = ["--images", 300, "--batch-size", 64, "--batches", 2, "--rounds", 2]
    command = ["benchmarks/loader.py", *small, "--out", out]
    assert "time_over_batched" in run(*command)
    rows = json.loads(out.read_text())["rows"]
    assert [(row["output"], row["loader"]) for row in rows] == [
        (output, loader) for output in ("uint8", "float32") for loader in ("mmpretrain", "torchvision", "batched")
    ]
    assert all(row["images_per_s"] > 0 for row in rows)
    assert "exists already" in run(*command, status=1)
    assert "--images must be at least" in run("benchmarks/loader.py", "--images", 100, status=2)


def test_optimizer_step(tmp_path):
    out = tmp_path / "optimizer_step.json"
    command = ["benchmarks/optimizer_step.py", "--networks", "mobilenet_v2", "--rounds", 1, "--out", out]
    assert "fused_speedup" in run(*command)
    rows = json.loads(out.read_text())["rows"]
    assert [row["optimizer"] for row in rows] == ["SGD", "AdamW"]
    assert all(row["fused_ms"] > 0 < row["default_ms"] for row in rows)
    assert "exists already" in run(*command, status=1)


@pytest.mark.slow
def test_compiled_step_time(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    out = tmp_path / "step_time.json"
    command = ["--case", "digits-hsakd", "--methods", "plain", "--compile", "--rounds", 1, "--warmup", 1, "--out", out]
    assert "compile_speedup" in run("benchmarks/step_time.py", *command)
    plain, compiled = json.loads(out.read_text())["rows"]
    assert (plain["method"], compiled["method"]) == ("plain", "plain, compiled")
    assert plain["compile_speedup"] == 1
    assert compiled["flops_ratio"] == 1
    assert plain["time_over_straightforward"] > 0
    assert compiled["time_over_straightforward"] is None
    assert compiled["peak_memory_mib"] is None


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


@pytest.mark.slow
def test_training_throughput(tmp_path):
    out = tmp_path / "throughput.json"
    command = ["benchmarks/training_throughput.py", "--iterations", 2, "--rounds", 1, "--out", out]
    assert "throughput_over_resident" in run(*command)
    rows = json.loads(out.read_text())["rows"]
    assert [row["switches"] for row in rows] == ["as it is", "--speed"]
    assert all(row["throughput_over_resident"] > 0 for row in rows)
    assert "exists already" in run(*command, status=1)
