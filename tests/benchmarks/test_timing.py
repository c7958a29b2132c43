"""The timing benchmarks with tiny sizes; within this process, since most of their time would be that of imports."""

import importlib.util
import json

import compact_profile
import compact_speedup
import pytest
import quiet
import step_time
import torch

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def peaks(monkeypatch):
    """Measure one method's memory as it is: each starts a process of its own. Returns the methods that were asked for.

    The allocator keeps its usual ways, since memory is measured in this process after these tests, too.
    """
    asked = []
    measure = step_time.peak_memory

    def peak_memory(case, method, *arguments):
        asked.append(method)
        assert quiet.is_timing()  # until the end of the script
        return measure(case, method, *arguments) if method == "mixskd" else 2**20

    monkeypatch.setattr(step_time, "peak_memory", peak_memory)
    monkeypatch.setattr(step_time, "keep_freed_memory", lambda: None)
    return asked


@pytest.mark.slow
def test_step_time(tmp_path, run_here, peaks):
    out = tmp_path / "step_time.json"
    command = ["benchmarks/step_time.py", "--case", "digits", "--rounds", 2, "--warmup", 1, "--out", out]
    assert "time_over_flops" in run_here(*command)
    plain, mixskd = json.loads(out.read_text())["rows"]
    assert (plain["method"], plain["time_ratio"], plain["flops_ratio"]) == ("plain", 1, 1)
    # twice the images; the deployable network has 3 stages, the branches 2 more and 1 more, of about equal cost
    assert 3.5 < mixskd["flops_ratio"] < 4.5
    assert mixskd["step_ms"] > plain["step_ms"]
    assert mixskd["straightforward_ms"] > plain["straightforward_ms"] > 0
    assert peaks == ["plain", "mixskd"]
    assert mixskd["peak_memory_mib"] > plain["peak_memory_mib"] == 1
    assert "exists already" in run_here(*command, status=1)


def test_compiled_step_time(tmp_path, run_here, peaks, monkeypatch):
    """What the compiler makes of a step is looked at elsewhere; here it is the compiled form's place in the table."""
    compile_training = step_time.compile_training
    monkeypatch.setattr(step_time, "compile_training", lambda model: compile_training(model, backend="eager"))
    out = tmp_path / "step_time.json"
    command = ["--case", "digits-hsakd", "--methods", "plain", "--compile", "--rounds", 1, "--warmup", 1, "--out", out]
    assert "compile_speedup" in run_here("benchmarks/step_time.py", *command)
    plain, compiled = json.loads(out.read_text())["rows"]
    assert (plain["method"], compiled["method"]) == ("plain", "plain, compiled")
    assert plain["compile_speedup"] == 1
    assert compiled["flops_ratio"] == 1
    assert plain["time_over_straightforward"] > 0
    assert compiled["time_over_straightforward"] is None
    assert compiled["peak_memory_mib"] is None
    assert peaks == ["plain"]


@pytest.mark.parametrize("form", ["bfloat16", "channels_last"])
def test_first_loss(tmp_path, run_here, form):
    out = tmp_path / "first_loss.json"
    command = ["benchmarks/first_loss.py", "--case", "digits-hsakd", "--methods", "plain", "--forms", form]
    assert "relative_difference" in run_here(*command, "--device", "cpu", "--out", out)
    (row,) = json.loads(out.read_text())["rows"]
    assert (row["case"], row["method"], row["form"]) == ("digits-hsakd", "plain", form)
    assert row["relative_difference"] < 0.05
    assert (row["relative_difference"] > 0) == (row["loss"] != row["float32"])


def test_prune_step(tmp_path, run_here):
    out = tmp_path / "prune_step.json"
    command = ["benchmarks/prune_step.py", "--depth", 18, "--batch-size", 2, "--size", 64, "--rounds", 1, "--out", out]
    assert "step_over_epoch" in run_here(*command)
    rows = json.loads(out.read_text())["rows"]
    assert [row["case"] for row in rows] == ["ghfp-asrfp", "ghfp-asrfp, group", "fpgm", "weights, ghfp-asrfp"]
    # two masks of a byte a filter, or a byte a weight of four bytes
    assert all(row["state_over_weights"] < 0.002 for row in rows[:3])
    assert 0.4 < rows[3]["state_over_weights"] <= 0.5
    assert all(row["step_ms"] > 0 < row["enforce_ms"] for row in rows)
    assert "exists already" in run_here(*command, status=1)


def test_loader(tmp_path, run_here):
    out = tmp_path / "loader.json"
    small = ["--images", 100, "--batch-size", 32, "--batches", 2, "--rounds", 1]
    command = ["benchmarks/loader.py", *small, "--out", out]
    assert "time_over_batched" in run_here(*command)
    rows = json.loads(out.read_text())["rows"]
    assert [(row["output"], row["loader"]) for row in rows] == [
        (output, loader) for output in ("uint8", "float32") for loader in ("mmpretrain", "torchvision", "batched")
    ]
    assert all(row["images_per_s"] > 0 for row in rows)
    assert "exists already" in run_here(*command, status=1)
    assert "--images must be at least" in run_here("benchmarks/loader.py", "--images", 100, status=2)


def test_optimizer_step(tmp_path, run_here):
    out = tmp_path / "optimizer_step.json"
    command = ["benchmarks/optimizer_step.py", "--networks", "squeezenet1_1", "--rounds", 1, "--out", out]
    assert "fused_speedup" in run_here(*command)
    rows = json.loads(out.read_text())["rows"]
    assert [row["optimizer"] for row in rows] == ["SGD", "AdamW"]
    assert all(row["fused_ms"] > 0 < row["default_ms"] for row in rows)
    assert "exists already" in run_here(*command, status=1)


def test_compact_latency(tmp_path, run_here):
    out = tmp_path / "compact_latency.json"
    command = ["benchmarks/compact_latency.py", "--networks", "resnet18", "--rates", 0.4, "--batch-sizes", 2]
    command += ["--cases", "group", "scatter", "--runtimes", "contiguous", "channels_last"]
    command += ["--size", 64, "--rounds", 1, "--out", out]
    assert "of_ideal" in run_here(*command)
    content = json.loads(out.read_text())
    assert {(row["case"], row["runtime"]) for row in content["rows"]} == {
        (case, runtime) for case in ("group", "scatter") for runtime in ("contiguous", "channels_last")
    }
    for row in content["rows"]:
        assert row["speedup"] == pytest.approx(row["dense_ms"] / row["compact_ms"], rel=0.05)
        assert row["ideal"] > 1.8
    assert all(row["seconds"] > 0 for row in content["compaction"])
    assert "exists already" in run_here(*command, status=1)


SMALL = ["--networks", "resnet18", "--rates", 0.5, "--size", 64]


def test_compact_speedup(tmp_path, run_here, monkeypatch):
    monkeypatch.setattr(compact_speedup, "keep_freed_memory", lambda: None)
    out = tmp_path / "compact_speedup.json"
    command = ["benchmarks/compact_speedup.py", *SMALL, "--batch-size", 2, "--rounds", 1, "--out", out]
    assert "of_ideal" in run_here(*command, "--runtimes", "channels_last")
    (first,) = json.loads(out.read_text())["rows"]
    assert first["speedup"] == pytest.approx(first["dense_ms"] / first["compact_ms"], rel=0.05)
    assert 3 < first["ideal"] < 4.2
    assert first["of_ideal"] == pytest.approx(first["speedup"] / first["ideal"], abs=0.01)
    assert first["torch_pruning_of_ideal"] > 0 or not importlib.util.find_spec("torch_pruning")
    # goes on with what is left, and keeps what is there
    asked = []
    monkeypatch.setattr(compact_speedup, "measure", lambda name, _, runtime, args: asked.append(runtime) or [first])
    run_here(*command, "--runtimes", "channels_last", "contiguous")
    assert asked == ["contiguous"]
    assert json.loads(out.read_text())["rows"] == [first, first]
    assert "other settings" in run_here(*command, "--batch-size", 3, status=1)


def test_folding_that_leaves_a_batch_norm():
    with pytest.raises(ValueError, match=r"folding BatchNorms failed: .*'1'"):
        compact_speedup.folded(torch.nn.Sequential(torch.nn.AvgPool2d(1), torch.nn.BatchNorm2d(3)))


def test_compact_profile(tmp_path, run_here, monkeypatch):
    monkeypatch.setattr(compact_profile, "keep_freed_memory", lambda: None)
    out = tmp_path / "compact_profile.json"
    pytest.importorskip("onnxruntime")
    command = ["benchmarks/compact_profile.py", *SMALL, "--batch-size", 2, "--rounds", 1, "--out", out]
    assert "lost_%" in run_here(*command)
    rows = json.loads(out.read_text())["rows"]
    for runtime in ("channels_last", "onnx"):
        ideal = {row["kind"]: row["ideal"] for row in rows if row["runtime"] == runtime}
        # all widths are halved, but for the three colours
        assert ideal["3x3 convolutions"] == pytest.approx(4, abs=0.01)
        assert ideal["first convolution"] == pytest.approx(2, abs=0.01)
    assert all(row["dense_ms"] > 0 < row["compact_ms"] for row in rows)
    assert "exists already" in run_here(*command, status=1)


@pytest.mark.slow
def test_training_throughput(tmp_path, run_here):
    out = tmp_path / "throughput.json"
    command = ["benchmarks/training_throughput.py", "--iterations", 2, "--rounds", 1, "--out", out]
    assert "throughput_over_resident" in run_here(*command)
    rows = json.loads(out.read_text())["rows"]
    assert [row["switches"] for row in rows] == ["as it is", "--speed"]
    assert all(row["throughput_over_resident"] > 0 for row in rows)
    assert "exists already" in run_here(*command, status=1)
