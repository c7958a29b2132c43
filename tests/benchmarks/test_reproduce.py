import json
import re
import signal
import subprocess
import sys
import time

import pytest
import row_queue
import torch
import yaml
from queue_file import load_queue, rows_of
from reproduce import absent_data, seconds
from row_queue import Queue
from rows import Row
from testing_helpers import REPOSITORY

SCRIPT = "benchmarks/reproduce.py"
SMALL = ["train_dataloader.dataset.indices=64", "val_dataloader.dataset.indices=32"]
RESNET8 = "hsakd/plain_resnet8_1xb64-12e_digits-16px.py"
VARIANT = {"pruning/variants.yml": ["^hfp-0.4_resnet20_1xb64-20e_digits-16px$"]}


@pytest.fixture
def queue(tmp_path):
    """A queue of one group of runs."""
    file = tmp_path / "rows.yml"

    def write(epochs, rows=(RESNET8,), **fields):
        entry = {"title": "Small runs", "seeds": [0], "name": "small", "options": SMALL, "epochs": epochs}
        entry |= {"rows": list(rows), **fields}
        file.write_text(yaml.safe_dump({"X": entry}))
        return ["--queue", file, "--results", tmp_path / "results", "--work-dirs", tmp_path / "runs"]

    return write


# What tools/train_pipeline.py leaves behind, without training. It begins with the file that stands for all checkpoints,
# and goes on when a file `go` is there, if it is told to wait.
ROW = """
import json, pathlib, re, shutil, sys, time
weights, wait, command = pathlib.Path(sys.argv[1]), sys.argv[2] == "wait", sys.argv[3:]
text = " ".join(command)
if "depth=9" in text:
    sys.exit("error: no such depth")
teacher = re.search(r"model.teacher.checkpoint=(\\S+)", text)
if teacher:
    print("learns from", pathlib.Path(teacher[1]).stat().st_size, "bytes")
folder = pathlib.Path(command[command.index("--work-dir") + 1]) / pathlib.Path(command[1]).stem
epochs = int(re.search(r"train_cfg.max_epochs=(\\d+)", text)[1])
if (folder / f"epoch_{epochs}.pth").is_file():
    print("done already")
    sys.exit()
log = folder / "20260101_000000/vis_data/scalars.json"
log.parent.mkdir(parents=True)
for epoch in range(1, epochs + 1):
    training = {"loss": 1, "epoch": epoch, "step": epoch, "time": 0.5}
    validation = {"accuracy/top1": 50 + epoch, "step": epoch}
    with log.open("a") as stream:
        stream.write(json.dumps(training) + "\\n" + json.dumps(validation) + "\\n")
    shutil.copy(weights, folder / f"epoch_{epoch}.pth")
    while wait and not (weights.parent / "go").exists():
        time.sleep(0.05)
print("trained")
"""


@pytest.fixture
def fake_rows(monkeypatch, tmp_path):
    """Let rows be trained in no time: what the queue does with them does not depend on what they learn."""
    command_of = row_queue.command_of

    def use(epochs, wait=False):
        folder = tmp_path / "weights"
        folder.mkdir()
        torch.save({"meta": {"epoch": epochs, "iter": epochs}}, folder / "a.pth")
        words = ["-c", ROW, str(folder / "a.pth"), "wait" if wait else "go on"]
        monkeypatch.setattr(row_queue, "command_of", lambda *arguments: [*words, *command_of(*arguments)])
        return folder / "go"

    return use


def results_of(folder):
    return {path.name: json.loads(path.read_text()) for path in (folder / "results").glob("*.json")}


@pytest.mark.parametrize(("text", "value"), [("90", 90), ("90s", 90), ("25m", 1500), ("1.5h", 5400)])
def test_durations(text, value):
    assert seconds(text) == value


@pytest.mark.slow
def test_a_pruned_run_that_is_stopped_goes_on_where_it_was(tmp_path, queue, run_here):
    """With real training, from the command line to the result file."""
    arguments = ["X", "--nice", 0, *queue(20, rows=(), variants=VARIANT)]
    process = subprocess.Popen(
        [sys.executable, SCRIPT, *map(str, arguments)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None and not list((tmp_path / "runs").rglob("epoch_3.pth")):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    saved = int(re.search(r"stopped, (\d+) epochs are saved", output)[1])
    assert 3 <= saved == max(int(path.stem.split("_")[1]) for path in (tmp_path / "runs").rglob("epoch_*.pth")) < 20
    assert "0 of 1 rows done; the same command goes on from here" in output
    assert not (tmp_path / "results").exists()

    assert "(1 of 1)" in run_here(SCRIPT, *arguments)
    ((name, result),) = results_of(tmp_path).items()
    assert name == "train_hfp-0.4_resnet20_1xb64-20e_digits-16px_small_20e_seed0.json"
    assert [entry["epoch"] for entry in result["log"]] == list(range(1, 21))
    assert all("loss" in entry for entry in result["log"])
    assert sum("top1" not in entry for entry in result["log"]) <= 1  # the validation that was interrupted
    assert result["top1_last"] == result["log"][-1]["top1"]
    assert result["wall_s"] > 1
    assert result["command"].startswith("python tools/train_pipeline.py configs/pruning/ghfp-asrfp_resnet20")
    pruning = result["pruning"]
    assert (pruning["method"], pruning["rate"], pruning["exact_in_every_layer"]) == ("hfp", 0.4, True)
    assert pruning["zero"] > 0
    (log,) = (tmp_path / "runs").rglob("output.log")
    assert "resumed epoch" in log.read_text()


def test_rows_become_result_files_once(tmp_path, queue, run_here, fake_rows, monkeypatch):
    fake_rows(2)
    priorities = []
    monkeypatch.setattr(row_queue, "lower_priority", lambda pid, nice: priorities.append(nice))
    names = [RESNET8, "hssakd/hssakd-x2_resnet8_1xb64-12e_digits-16px.py"]
    folders = queue(2, names)
    listed = run_here(SCRIPT, "--list", *folders)
    assert "X: Small runs" in listed
    assert listed.count("[ ]") == 2
    output = run_here(SCRIPT, "X", "--jobs", 2, "--nice", 7, *folders)
    assert "(2 of 2)" in output
    assert priorities == [7, 7]
    results = results_of(tmp_path)
    assert len(results) == 2
    plain = results["train_plain_resnet8_1xb64-12e_digits-16px_small_2e_seed0.json"]
    assert (plain["epochs_run"], plain["epochs_planned"], plain["group"], plain["rows_at_once"]) == (2, 12, "X", 2)
    assert [sorted(entry) for entry in plain["log"]] == [["epoch", "loss", "top1"]] * 2
    assert plain["top1_last"] == plain["log"][-1]["top1"] == 52
    assert "tools/train_pipeline.py configs/hsakd/plain_resnet8" in plain["command"]
    assert "work_dirs/rows/plain_resnet8" in plain["command"]
    assert "param_scheduler.1.T_max=2" in plain["overrides"]

    assert "2 rows, 2 of them done" in run_here(SCRIPT, "X", *folders)
    assert run_here(SCRIPT, "--list", *folders).count("[x]") == 2
    changed = queue(2, names, options=[*SMALL, "optim_wrapper.optimizer.lr=0.2"])
    message = "2 stored results are of other configs than their rows have now"
    assert message in run_here(SCRIPT, "X", *changed, status=1)
    assert run_here(SCRIPT, "--list", *changed).count("[!]") == 3  # two rows, and the line that explains
    assert results_of(tmp_path) == results


def test_a_queue_that_is_killed_goes_on_and_repeats_nothing(tmp_path, queue, run_here, fake_rows, monkeypatch):
    """Its run ends by itself; the next queue waits for it, if it must, and takes what it has reached."""
    monkeypatch.setattr(row_queue, "RETRY_S", 0.1)
    go = fake_rows(3, wait=True)
    folders = queue(3)
    killed = Queue(rows_of(load_queue(folders[1]), ["X"], None), tmp_path / "results", tmp_path / "runs", 1, None)
    killed._fill()
    (run,) = killed.running
    run.lock.close()  # as the kernel does for a process that is killed; the run has the lock still
    note = run.work_dir / "spent.json"
    spent = json.loads(note.read_text())
    note.write_text(json.dumps({**spent, "since": spent["since"] - 100}))  # it has worked for so long already
    monkeypatch.setattr(Queue, "_report_progress", lambda self: go.touch())  # when the next queue has tried once
    output = run_here(SCRIPT, "X", *folders)
    assert output.count("waits, another process trains in") == 1
    assert "(1 of 1)" in output
    assert run.process.wait() == 0
    (result,) = results_of(tmp_path).values()
    assert [entry["epoch"] for entry in result["log"]] == [1, 2, 3]
    (log,) = (tmp_path / "runs").rglob("output.log")
    assert log.read_text().split("\n")[:-1] == ["trained", "done already"]
    assert 100 < result["wall_s"] < 400


def test_a_teacher_is_trained_once_and_has_a_result_of_its_own(tmp_path, queue, run_here, fake_rows):
    fake_rows(2)
    folders = queue(2, ["hsakd/kd_resnet20_resnet8_1xb64-12e_digits-16px.py"], seeds=[0, 1], teacher_seed=0)
    output = run_here(SCRIPT, "X", "--jobs", 2, *folders)
    assert output.count("is trained for kd_resnet20_resnet8_1xb64-12e_digits-16px_small_2e, seed 0") == 1
    assert "(3 of 3)" in output
    results = results_of(tmp_path)
    teacher = "plain_resnet20_1xb64-12e_digits-16px_small_2e"
    assert sorted(result["row"] for result in results.values()).count(teacher) == 1
    for seed in (0, 1):
        result = results[f"train_kd_resnet20_resnet8_1xb64-12e_digits-16px_small_2e_seed{seed}.json"]
        assert result["learns_from"] == [f"{teacher}, seed 0"]
        log = tmp_path / f"runs/kd_resnet20_resnet8_1xb64-12e_digits-16px_small_2e/seed{seed}/output.log"
        assert log.read_text().startswith("learns from")  # the teacher's checkpoint was there
    assert len(list((tmp_path / "runs").rglob(f"{teacher}/**/scalars.json"))) == 1


def test_rows_whose_data_are_not_there_are_named_and_the_others_run(tmp_path):
    there = Row("a", "X", REPOSITORY / "configs/hsakd/plain_resnet8_1xb64-12e_digits-16px.py", 0)
    config = REPOSITORY / "configs/mixskd/plain_resnet20_1xb64-80e_cifar100-20classes-16px.py"
    place = f"val_dataloader.dataset.dataset.dataset.data_root={tmp_path / 'nothing'}"
    absent = absent_data([there, Row("b", "X", config, 0, (place,)), Row("b", "X", config, 1, (place,))])
    assert list(absent) == ["b, seed 0", "b, seed 1"]
    assert "CIFAR-100: no file test in" in absent["b, seed 0"]


def test_a_budget_too_short_for_an_epoch_is_an_error(tmp_path, queue, run_here):
    output = run_here(SCRIPT, "X", "--budget", "0.1s", *queue(1), status=1)
    assert "the budget is used up" in output
    assert "too short for one epoch of plain_resnet8_1xb64-12e_digits-16px_small_1e, seed 0" in output
    assert not (tmp_path / "results").exists()


def test_bad_command_lines(queue, run_here):
    folders = queue(1)
    assert "there is no group Y in the queue; there are X" in run_here(SCRIPT, "Y", *folders, status=1)
    assert "no row of X matches 'nothing'" in run_here(SCRIPT, "X", "--only", "nothing", *folders, status=1)
    assert "name at least one group" in run_here(SCRIPT, status=2)
    assert "not a duration such as 90s" in run_here(SCRIPT, "X", "--budget", "soon", status=2)
    assert "--seeds: seed 1 is given twice" in run_here(SCRIPT, "X", "--seeds", 1, 1, *folders, status=1)
    assert "--threads must be 1 or more" in run_here(SCRIPT, "X", "--threads", 0, status=2)
    assert "--nice: invalid choice: 20" in run_here(SCRIPT, "X", "--nice", 20, status=2)
    assert "--jobs must be 1 or more" in run_here(SCRIPT, "X", "--jobs", 0, status=2)


def test_a_row_that_fails_is_reported_and_the_others_go_on(tmp_path, queue, run_here, fake_rows):
    fake_rows(1)
    folders = queue(1)
    entry = yaml.safe_load(folders[1].read_text())["X"]
    title = entry.pop("title")
    failing = {**entry, "name": "nine", "options": ["model.backbone.depth=9"]}
    folders[1].write_text(yaml.safe_dump({"X": {"title": title, "parts": [failing, entry]}}))
    output = run_here(SCRIPT, "X", *folders, status=1)
    assert "1 rows failed: plain_resnet8_1xb64-12e_digits-16px_nine_1e, seed 0 (exit code 1" in output
    assert "error: no such depth" in output
    assert list(results_of(tmp_path)) == ["train_plain_resnet8_1xb64-12e_digits-16px_small_1e_seed0.json"]
