"""The command for an accelerator, tried out on the CPU with tiny sizes."""

import importlib.util
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import step_time
import yaml
from gpu_tests import outcome
from testing_helpers import REPOSITORY

HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnxruntime", "onnx"))
SMALL = [
    "train_dataloader.dataset.indices=96",
    "val_dataloader.dataset.indices=64",
    "train_dataloader.batch_size=32",
]
SETTINGS = {
    "DEVICE": "cpu",
    "PYTHON": sys.executable,
    "CASES": "digits",
    "FORMS": "bfloat16",
    "ROUNDS": "1",
    "NETWORKS": "resnet18",
    "BATCH_SIZES": "1",
    "SIZE": "64",
    "ROW_GROUPS": "X",
    "JOBS": "1",
    "NICE": "0",
    "OMP_NUM_THREADS": "1",
}


def accelerator(out, queue, **settings):
    environment = {**os.environ, **SETTINGS, "QUEUE": str(queue), **settings}
    command = ["bash", "benchmarks/accelerator.sh", str(out)]
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    return result.returncode, result.stdout + result.stderr


def stand_in(file, calls, status):
    """Write a program that notes how it is called instead of ``python``, and does nothing else."""
    file.write_text(f"#!/bin/bash\nprintf '%q ' \"$@\" >>{calls}\necho >>{calls}\nexit {status}\n")
    file.chmod(0o755)
    return str(file)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_everything_is_measured_once_and_goes_on(tmp_path, run_here, monkeypatch):
    """Tests and rows by the real command; what it calls for the ratios is run within this process, to save imports."""
    monkeypatch.setattr(step_time, "peak_memory", lambda *arguments: 2**20)  # measured in a process of its own
    monkeypatch.setattr(step_time, "keep_freed_memory", lambda: None)  # memory is measured in this one later
    queue, out, tests = tmp_path / "rows.yml", tmp_path / "out", tmp_path / "test_tiny.py"
    entry = {"title": "Small", "seeds": [0], "name": "small", "options": SMALL, "epochs": 2}
    entry["rows"] = ["hsakd/plain_resnet8_1xb64-12e_digits-16px.py"]
    queue.write_text(yaml.safe_dump({"X": entry}))
    tests.write_text("import pytest\n@pytest.mark.gpu\ndef test_a():\n    pass\ndef test_b():\n    pass\n")
    settings = {"TIME_LIMIT": "1500", "TESTS": str(tests)}

    calls = tmp_path / "calls"
    status, output = accelerator(out, queue, **settings, PYTHON=stand_in(tmp_path / "fails", calls, 3))
    assert status == 1
    assert output.count("failed with exit code 3") == 4  # and the next one is tried all the same
    commands = {Path(words[0]).stem: words for words in map(shlex.split, calls.read_text().splitlines())}
    assert list(commands) == ["gpu_tests", "first_loss", "step_time", "compact_latency", "reproduce"]
    for name in ("first_loss", "step_time", "compact_latency"):
        run_here(*commands[name])
    losses = json.loads((out / "first_loss.json").read_text())["rows"]
    assert [(row["method"], row["form"]) for row in losses] == [("plain", "bfloat16"), ("mixskd", "bfloat16")]
    assert all(row["relative_difference"] < 0.05 for row in losses)
    assert {row["method"] for row in json.loads((out / "step_time.json").read_text())["rows"]} == {"plain", "mixskd"}
    latency = json.loads((out / "compact_latency.json").read_text())
    assert {row["network"] for row in latency["rows"]} == {"resnet18"}
    assert ({row["runtime"] for row in latency["rows"]} == {"contiguous", "channels_last", "onnx"}) == HAS_ONNX

    status, output = accelerator(out, queue, **settings)
    assert status == 0, output
    assert output.count("done already") == 3
    assert "(1 of 1)" in output
    outcomes = json.loads((out / "gpu_tests.json").read_text())
    assert outcomes["counts"] == {"tests": 1, "failures": 0, "errors": 0, "skipped": 0}
    assert outcomes["pytest_exit_code"] == 0
    assert len(list(out.glob("train_*.json"))) == 1
    before = {path: path.read_bytes() for path in out.glob("*.json")}

    calls.unlink()
    status, output = accelerator(out, queue, **settings, PYTHON=stand_in(tmp_path / "python", calls, 0))
    assert status == 0, output
    assert output.count("done already") == 4
    (line,) = calls.read_text().splitlines()  # which rows are done is for the queue to see
    assert shlex.split(line)[:2] == ["benchmarks/reproduce.py", "X"]
    assert {path: path.read_bytes() for path in out.glob("*.json")} == before


def test_without_a_gpu_it_says_so(tmp_path):
    status, output = accelerator(tmp_path, tmp_path / "x", DEVICE="cuda", CUDA_VISIBLE_DEVICES="")
    assert (status, list(tmp_path.iterdir())) == (1, [])
    assert "PyTorch sees no CUDA GPU; DEVICE=cpu tries the script out" in output


def test_steps_that_have_no_time_left_are_named(tmp_path):
    status, output = accelerator(tmp_path, tmp_path / "x", TIME_LIMIT="1")
    assert status == 1
    assert output.count("no time is left") == 5


def test_outcome_of_tests(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite tests="3" failures="1" errors="0" skipped="1">'
        '<testcase classname="a" name="b" time="1.5"/><testcase classname="a" name="c" time="2"><failure/></testcase>'
        '<testcase classname="a" name="d"><skipped/></testcase></testsuite></testsuites>'
    )
    counts, rows = outcome(report)
    assert counts == {"tests": 3, "failures": 1, "errors": 0, "skipped": 1}
    assert [(row["test"], row["result"]) for row in rows] == [("a::b", "passed"), ("a::c", "failed")]
