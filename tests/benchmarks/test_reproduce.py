import json
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml
from reproduce import absent_data, seconds
from rows import Row
from testing_helpers import REPOSITORY
from testing_helpers import run_script as run

SMALL = [
    "train_dataloader.dataset.indices=96",
    "val_dataloader.dataset.indices=64",
    "train_dataloader.batch_size=32",
]
SCRIPT = "benchmarks/reproduce.py"
PLAIN = REPOSITORY / "configs/mixskd/plain_resnet20_1xb64-20e_digits-16px.py"


@pytest.fixture
def queue(tmp_path):
    """A queue of a plain and a pruned run on a few digits."""
    file = tmp_path / "rows.yml"

    def write(epochs, options=()):
        entry = {
            "title": "Small runs",
            "seeds": [0],
            "name": "small",
            "options": [*SMALL, *options],
            "epochs": epochs,
            "rows": ["hsakd/plain_resnet8_1xb64-12e_digits-16px.py"],
            "variants": {"pruning/variants.yml": ["^hfp-0.4_resnet20_1xb64-20e_digits-16px$"]},
        }
        file.write_text(yaml.safe_dump({"X": entry}))
        return ["--queue", file, "--results", tmp_path / "results", "--work-dirs", tmp_path / "runs"]

    return write


@pytest.mark.parametrize(("text", "value"), [("90", 90), ("90s", 90), ("25m", 1500), ("1.5h", 5400)])
def test_durations(text, value):
    assert seconds(text) == value


@pytest.mark.slow
def test_rows_become_result_files_once(tmp_path, queue):
    folders = queue(epochs=2)
    listed = run(SCRIPT, "--list", *folders)
    assert "X: Small runs" in listed
    assert listed.count("[ ]") == 2
    output = run(SCRIPT, "X", "--jobs", 2, *folders)
    assert "(2 of 2)" in output
    plain = json.loads((tmp_path / "results/train_plain_resnet8_1xb64-12e_digits-16px_small_2e_seed0.json").read_text())
    assert (plain["epochs_run"], plain["epochs_planned"], plain["group"], plain["rows_at_once"]) == (2, 12, "X", 2)
    assert [sorted(entry) for entry in plain["log"]] == [["epoch", "loss", "top1"]] * 2
    assert plain["top1_last"] == plain["log"][-1]["top1"]
    assert plain["wall_s"] > 1
    assert plain["command"].startswith("python tools/train_pipeline.py configs/hsakd/plain_resnet8")
    assert "param_scheduler.1.T_max=2" in plain["overrides"]
    (file,) = (tmp_path / "results").glob("train_hfp*.json")
    pruning = json.loads(file.read_text())["pruning"]
    assert (pruning["method"], pruning["rate"], pruning["exact_in_every_layer"]) == ("hfp", 0.4, True)
    assert pruning["zero"] > 0
    before = file.read_bytes()

    assert "2 rows, 2 of them done" in run(SCRIPT, "X", *folders)
    assert run(SCRIPT, "--list", *folders).count("[x]") == 2
    changed = queue(2, ["optim_wrapper.optimizer.lr=0.2"])
    assert "2 stored results are of other configs than their rows have now" in run(SCRIPT, "X", *changed, status=1)
    assert run(SCRIPT, "--list", *changed).count("[!]") == 3  # two rows, and the line that explains
    assert file.read_bytes() == before


@pytest.mark.slow
def test_a_run_that_is_stopped_goes_on_where_it_was(tmp_path, queue):
    arguments = ["X", "--only", "^plain", *queue(epochs=40)]
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while time.monotonic() < until and not list((tmp_path / "runs").rglob("epoch_3.pth")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    saved = int(re.search(r"stopped, (\d+) epochs are saved", output)[1])
    assert 3 <= saved == max(int(path.stem.split("_")[1]) for path in (tmp_path / "runs").rglob("epoch_*.pth"))
    assert "0 of 1 rows done; the same command goes on from here" in output
    assert not (tmp_path / "results").exists()
    assert "(1 of 1)" in run(SCRIPT, *arguments)
    (file,) = (tmp_path / "results").glob("*.json")
    result = json.loads(file.read_text())
    assert [entry["epoch"] for entry in result["log"]] == list(range(1, 41))
    assert sum("top1" not in entry for entry in result["log"]) <= 1  # the validation that was interrupted
    (log,) = (tmp_path / "runs").rglob("output.log")
    assert "resumed epoch" in log.read_text()


@pytest.mark.slow
def test_a_queue_that_is_killed_goes_on_and_repeats_nothing(tmp_path, queue):
    """Its run ends by itself; the next queue waits for it, if it must, and takes what it has reached."""
    arguments = ["X", "--only", "^plain", *queue(epochs=12)]
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while time.monotonic() < until and not list((tmp_path / "runs").rglob("epoch_2.pth")):
        time.sleep(0.05)
    process.kill()
    process.wait()
    output = run(SCRIPT, *arguments)
    assert "(1 of 1)" in output
    (file,) = (tmp_path / "results").glob("*.json")
    result = json.loads(file.read_text())
    assert [entry["epoch"] for entry in result["log"]] == list(range(1, 13))
    (log,) = (tmp_path / "runs").rglob("output.log")
    text = log.read_text()
    assert "resumed epoch" not in text
    assert len(re.findall(r"Epoch\(val\) +\[1\]", text)) == 1  # trained once
    assert result["wall_s"] > 1


@pytest.mark.slow
def test_a_teacher_is_trained_once_and_has_a_result_of_its_own(tmp_path):
    file = tmp_path / "rows.yml"
    small = {"name": "small", "options": SMALL, "epochs": 2, "teacher_seed": 0}
    student = "hsakd/kd_resnet20_resnet8_1xb64-12e_digits-16px.py"
    file.write_text(yaml.safe_dump({"X": {"title": "Small", "seeds": [0, 1], "rows": [student], **small}}))
    folders = ["--queue", file, "--results", tmp_path / "results", "--work-dirs", tmp_path / "runs"]
    output = run(SCRIPT, "X", "--jobs", 2, *folders)
    assert output.count("is trained for kd_resnet20_resnet8_1xb64-12e_digits-16px_small_2e, seed 0") == 1
    assert "(3 of 3)" in output
    results = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "results").glob("*.json")}
    teacher = "plain_resnet20_1xb64-12e_digits-16px_small_2e"
    assert sorted(result["row"] for result in results.values()).count(teacher) == 1
    for seed in (0, 1):
        result = results[f"train_kd_resnet20_resnet8_1xb64-12e_digits-16px_small_2e_seed{seed}"]
        assert result["learns_from"] == [f"{teacher}, seed 0"]
    logs = list((tmp_path / "runs").rglob(f"{teacher}/**/scalars.json"))
    assert len(logs) == 1


def test_rows_whose_data_are_not_there_are_named_and_the_others_run(tmp_path):
    there = Row("a", "X", REPOSITORY / "configs/hsakd/plain_resnet8_1xb64-12e_digits-16px.py", 0)
    config = REPOSITORY / "configs/mixskd/plain_resnet20_1xb64-80e_cifar100-20classes-16px.py"
    place = f"val_dataloader.dataset.dataset.dataset.data_root={tmp_path / 'nothing'}"
    absent = absent_data([there, Row("b", "X", config, 0, (place,)), Row("b", "X", config, 1, (place,))])
    assert list(absent) == ["b, seed 0", "b, seed 1"]
    assert "CIFAR-100: no file test in" in absent["b, seed 0"]


@pytest.mark.slow
def test_a_budget_too_short_for_an_epoch_is_an_error(tmp_path, queue):
    output = run(SCRIPT, "X", "--only", "^plain", "--budget", "0.1s", *queue(epochs=1), status=1)
    assert "the budget is used up" in output
    assert "too short for one epoch of plain_resnet8_1xb64-12e_digits-16px_small_1e, seed 0" in output
    assert not (tmp_path / "results").exists()


def test_bad_command_lines(queue):
    folders = queue(epochs=1)
    assert "there is no group Y in the queue; there are X" in run(SCRIPT, "Y", *folders, status=1)
    assert "no row of X matches 'nothing'" in run(SCRIPT, "X", "--only", "nothing", *folders, status=1)
    assert "name at least one group" in run(SCRIPT, status=2)
    assert "not a duration such as 90s" in run(SCRIPT, "X", "--budget", "soon", status=2)
    assert "--seeds: seed 1 is given twice" in run(SCRIPT, "X", "--seeds", 1, 1, *folders, status=1)
    assert "--threads must be 1 or more" in run(SCRIPT, "X", "--threads", 0, status=2)
    assert "--jobs must be 1 or more" in run(SCRIPT, "X", "--jobs", 0, status=2)


@pytest.mark.slow
def test_a_row_that_fails_is_reported_and_the_others_go_on(tmp_path, queue):
    folders = queue(epochs=1, options=["model.backbone.depth=9"])
    output = run(SCRIPT, "X", *folders, status=1)
    assert "2 rows failed" in output
    assert "depth" in output
    assert not (tmp_path / "results").exists()
