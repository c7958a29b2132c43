import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import quiet
import row_queue
import row_runs
from queue_file import load_queue, rows_of
from row_queue import Queue
from row_runs import set_unvalidated_aside
from rows import Row
from run_folders import lock_of
from testing_helpers import REPOSITORY

from mmkdprune.commands.pipeline import Phase
from mmkdprune.errors import UsageError

PLAIN = REPOSITORY / "configs/mixskd/plain_resnet20_1xb64-20e_digits-16px.py"


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
        monkeypatch.setattr(row_queue, "command_of", lambda row, work_dir, checkpoints: ["-c", script])

    return use


def test_a_mistake_in_one_row_leaves_the_others_alone_and_nothing_behind(work, scripted, monkeypatch):
    queue = work("a", "b", jobs=2)
    scripted("pass")
    monkeypatch.setattr(row_queue, "make_result", mistake)
    queue.run()
    assert queue.failed == {"a, seed 0": "made up", "b, seed 0": "made up"}
    assert queue.running == []


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


def test_a_row_in_which_another_process_trains_waits_for_it(work, scripted, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(row_queue, "RETRY_S", 0.3)
    monkeypatch.setattr(row_queue, "make_result", lambda *arguments, **options: {"top1_last": 1.0})
    (tmp_path / "runs/a/seed0").mkdir(parents=True)
    lock = lock_of(tmp_path / "runs/a/seed0")
    queue = work("a", "b")
    scripted("pass")
    threading.Timer(3.0, lock.close).start()
    queue.run()
    assert queue.failed == {}
    assert queue.done == 2
    printed = capsys.readouterr().out
    assert printed.count("a, seed 0: waits, another process trains in") == 1
    assert printed.index("b, seed 0: started") < printed.index("a, seed 0: started")


def test_runs_stand_still_while_time_is_measured(work, scripted, tmp_path, monkeypatch):
    """The time that they stand still is not counted."""
    monkeypatch.setattr(quiet, "SETTLE_S", 0)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(quiet.tempfile, "tempdir", None)
    spent = {}
    monkeypatch.setattr(
        row_queue, "make_result", lambda *arguments, **options: spent.update(options) or {"top1_last": 1}
    )
    queue = work("a")
    scripted(f"import time\nfor n in range(20):\n    open('{tmp_path}/ticks', 'a').write('x')\n    time.sleep(0.1)")
    ticks = []

    def measure():
        while not (tmp_path / "ticks").exists():
            time.sleep(0.05)
        with quiet.quiet():
            time.sleep(1)
            ticks.append((tmp_path / "ticks").stat().st_size)
            time.sleep(2)
            ticks.append((tmp_path / "ticks").stat().st_size)

    thread = threading.Thread(target=measure)
    thread.start()
    queue.run()
    thread.join()
    assert ticks[0] == ticks[1] < 20
    assert (tmp_path / "ticks").stat().st_size == 20
    assert spent["wall_s"] < queue_took(tmp_path) - 2


def queue_took(tmp_path):
    log = tmp_path / "runs/a/seed0/output.log"
    return time.time() - log.stat().st_mtime  # written to once, when it was opened


def test_a_row_whose_teacher_fails_fails(work, scripted):
    queue = work()
    student = REPOSITORY / "configs/hsakd/kd_resnet20_resnet8_1xb64-12e_digits-16px.py"
    queue.waiting = [Row("kd", "X", student, 0)]
    scripted("import sys; sys.exit(5)")
    queue.run()
    teacher = "plain_resnet20_1xb64-12e_digits-16px, seed 0"
    assert list(queue.failed) == [teacher, "kd, seed 0"]
    assert queue.failed["kd, seed 0"] == f"it needs {teacher}, which failed"


def test_a_run_that_ends_just_before_the_queue_is_stopped_has_its_result(work, scripted, monkeypatch):
    monkeypatch.setattr(row_queue, "make_result", lambda *arguments, **options: {"top1_last": 1.0})
    queue = work("a", budget=600)
    scripted("pass")
    look_after = Queue._look_after

    def stop_first(self, run):
        os.waitid(os.P_PID, run.process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody knows
        self._stop("made up")
        look_after(self, run)

    monkeypatch.setattr(Queue, "_look_after", stop_first)
    queue.run()
    assert (queue.done, queue.failed) == (1, {})


def test_a_failure_while_stopping_is_a_failure(work, scripted, tmp_path):
    queue = work("a", budget=600)
    ready = tmp_path / "ready"
    handler = "signal.signal(signal.SIGINT, lambda *_: sys.exit(3))"
    scripted(f"import signal, time, sys; {handler}; open({str(ready)!r}, 'w').close(); time.sleep(60)")

    def end_budget():
        while not ready.exists():
            time.sleep(0.05)
        queue.deadline = 0.0

    thread = threading.Thread(target=end_budget)
    thread.start()
    queue.run()
    thread.join()
    assert "exit code 3" in queue.failed["a, seed 0"]
    assert queue.without_progress == []


def test_the_last_epoch_is_repeated_when_its_validation_is_missing(tmp_path):
    phase = Phase(str(PLAIN), Row("a", "X", PLAIN, 0).settings(), tmp_path)
    phase.final_checkpoint.write_text("x")
    set_unvalidated_aside(phase)
    assert [file.name for file in tmp_path.iterdir()] == ["epoch_20.unvalidated"]


def test_a_fine_tuned_row_is_given_its_backbone(tmp_path):
    rows = {row.name: row for row in rows_of(load_queue(), ["T"], None)}
    queue = Queue([], tmp_path, tmp_path / "runs", 1, None)
    words = {}
    for name in ("scratch", "plain", "compact"):
        row = rows[f"fpn_r18-w16-cifar100_1xb8-800_camvid-240x180_from-{name}"]
        words[name] = row_runs.command_of(row, tmp_path, queue._checkpoints(row))
        assert words[name][0] == "benchmarks/fine_tune.py"
        assert "randomness.seed=0" in words[name]
        assert not any(word.startswith("backbone=") for word in words[name])
    folder = tmp_path / "runs/plain_resnet18-w16_1xb64-30e_cifar100/seed0/plain_resnet18-w16_1xb64-30e_cifar100"
    assert words["plain"][words["plain"].index("--backbone") + 1] == str(folder / "epoch_30.pth")
    assert "--backbone" not in words["scratch"]
    assert ["--compact" in words[name] for name in words] == [False, False, True]
    stem = "mixskd-ghfp-asrfp_resnet18-w16_1xb64-30e_cifar100"
    own = words["compact"][words["compact"].index("--compact") + 1]
    assert own == str(tmp_path / f"runs/{stem}/seed0/{stem}/{stem}.py")  # as the run has left it


def test_priority_is_the_lowest_without_touching_the_session_of_the_queue():
    before = os.getpriority(os.PRIO_PROCESS, 0)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"], start_new_session=True)
    try:
        row_runs.lower_priority(process.pid)
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == row_runs.LOWEST_PRIORITY
        group = Path(f"/proc/{process.pid}/autogroup")
        if group.exists():
            assert "nice 19" in group.read_text()
    finally:
        process.kill()
        process.wait()
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
