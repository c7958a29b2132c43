import json
import re
import signal
import subprocess
import sys
import time

import pytest
import reproduce
import yaml
from reproduce import Queue, lock_of, seconds, set_unvalidated_aside
from rows import Row
from testing_helpers import REPOSITORY
from testing_helpers import run_script as run

from mmkdprune.utils.command_line import UsageError
from mmkdprune.utils.pipeline import Phase

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
    assert "is the result of another config" in run(
        SCRIPT, "X", *queue(2, ["optim_wrapper.optimizer.lr=0.2"]), status=1
    )
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
def test_a_budget_too_short_for_an_epoch_is_an_error(tmp_path, queue):
    output = run(SCRIPT, "X", "--only", "^plain", "--budget", "0.1s", *queue(epochs=1), status=1)
    assert "the budget is used up" in output
    assert "too short for one epoch of plain_resnet8_1xb64-12e_digits-16px_small_1e, seed 0" in output
    assert not (tmp_path / "results").exists()


@pytest.fixture
def work(tmp_path):
    """A queue whose runs are scripts of a test."""

    def make(*names, jobs=1, budget=None):
        rows = [Row(name, "X", PLAIN, 0) for name in names]
        return Queue(rows, tmp_path / "results", tmp_path / "runs", jobs, budget)

    return make


@pytest.fixture
def scripted(monkeypatch):
    def use(script):
        monkeypatch.setattr(reproduce, "command_of", lambda row, work_dir, options: ["-c", script])

    return use


def test_a_mistake_in_one_row_leaves_the_others_alone_and_nothing_behind(work, scripted, monkeypatch):
    queue = work("a", "b", jobs=2)
    scripted("pass")
    monkeypatch.setattr(reproduce, "make_result", mistake)
    queue.run()
    assert [text.split(",")[0] for text in queue.failed] == ["a", "b"]
    assert queue.running == []
    assert all("made up" in text for text in queue.failed)


def mistake(*arguments, **options):
    raise UsageError("made up")


def test_runs_do_not_outlive_the_queue(work, scripted, monkeypatch):
    queue = work("a")
    scripted("import time; time.sleep(60)")
    monkeypatch.setattr(Queue, "_look_after", lambda self, run: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        queue.run()
    (run,) = queue.running
    assert run.process.wait(timeout=10) == -signal.SIGKILL


def test_a_folder_is_trained_in_by_one_process_at_a_time(work, scripted, tmp_path):
    (tmp_path / "runs/a/seed0").mkdir(parents=True)
    with lock_of(tmp_path / "runs/a/seed0"):
        queue = work("a")
        scripted("pass")
        queue.run()
    assert "another process trains in" in queue.failed[0]


def test_a_failure_while_stopping_is_a_failure(work, scripted):
    queue = work("a", budget=1.0)
    scripted("import signal, time, sys; signal.signal(signal.SIGINT, lambda *_: sys.exit(3)); time.sleep(60)")
    queue.run()
    assert "exit code 3" in queue.failed[0]
    assert queue.without_progress == []


def test_the_last_epoch_is_repeated_when_its_validation_is_missing(tmp_path):
    phase = Phase(str(PLAIN), Row("a", "X", PLAIN, 0).settings(), tmp_path)
    phase.final_checkpoint.write_text("x")
    set_unvalidated_aside(phase)
    assert [file.name for file in tmp_path.iterdir()] == ["epoch_20.unvalidated"]


def test_bad_command_lines(queue):
    folders = queue(epochs=1)
    assert "there is no group Y in the queue; there are X" in run(SCRIPT, "Y", *folders, status=1)
    assert "no row of X matches 'nothing'" in run(SCRIPT, "X", "--only", "nothing", *folders, status=1)
    assert "name at least one group" in run(SCRIPT, status=2)
    assert "no duration such as 90s" in run(SCRIPT, "X", "--budget", "soon", status=2)
    assert "--jobs must be 1 or more" in run(SCRIPT, "X", "--jobs", 0, status=2)


@pytest.mark.slow
def test_a_row_that_fails_is_reported_and_the_others_go_on(tmp_path, queue):
    folders = queue(epochs=1, options=["model.backbone.depth=9"])
    output = run(SCRIPT, "X", *folders, status=1)
    assert "2 rows failed" in output
    assert "depth" in output
    assert not (tmp_path / "results").exists()
