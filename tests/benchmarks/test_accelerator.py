"""The command for an accelerator, tried out on the CPU with tiny sizes."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from gpu_tests import outcome
from testing_helpers import REPOSITORY

SMALL = [
    "train_dataloader.dataset.indices=96",
    "val_dataloader.dataset.indices=64",
    "train_dataloader.batch_size=32",
]
SETTINGS = {
    "DEVICE": "cpu",
    "PYTHON": sys.executable,
    "TESTS": "tests/utils/test_random.py",
    "CASES": "digits",
    "FORMS": "bfloat16",
    "ROUNDS": "1",
    "NETWORKS": "resnet18",
    "BATCH_SIZES": "1",
    "SIZE": "64",
    "ROW_GROUPS": "X",
    "JOBS": "1",
    "OMP_NUM_THREADS": "1",
}


def accelerator(out, queue, **settings):
    environment = {**os.environ, **SETTINGS, "QUEUE": str(queue), **settings}
    command = ["bash", "benchmarks/accelerator.sh", str(out)]
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    return result.returncode, result.stdout + result.stderr


@pytest.mark.slow
def test_everything_is_measured_once_and_goes_on(tmp_path):
    queue, out = tmp_path / "rows.yml", tmp_path / "out"
    entry = {"title": "Small", "seeds": [0], "name": "small", "options": SMALL, "epochs": 2}
    entry["rows"] = ["hsakd/plain_resnet8_1xb64-12e_digits-16px.py"]
    queue.write_text(yaml.safe_dump({"X": entry}))
    status, output = accelerator(out, queue, TIME_LIMIT="1500")
    assert status == 0, output
    assert "(1 of 1)" in output
    losses = json.loads((out / "first_loss.json").read_text())["rows"]
    assert [(row["method"], row["form"]) for row in losses] == [("plain", "bfloat16"), ("mixskd", "bfloat16")]
    assert all(row["relative_difference"] < 0.05 for row in losses)
    assert {row["method"] for row in json.loads((out / "step_time.json").read_text())["rows"]} == {"plain", "mixskd"}
    latency = json.loads((out / "compact_latency.json").read_text())
    assert {row["network"] for row in latency["rows"]} == {"resnet18"}
    tests = json.loads((out / "gpu_tests.json").read_text())
    assert tests["counts"]["failures"] == tests["counts"]["errors"] == 0
    assert tests["pytest_exit_code"] == 0
    assert len(list(out.glob("train_*.json"))) == 1
    before = {path: path.read_bytes() for path in out.glob("*.json")}

    status, output = accelerator(out, queue, TIME_LIMIT="1500")
    assert status == 0, output
    assert output.count("done already") == 4
    assert "1 rows, 1 of them done" in output
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
