import json
import time

import pytest
from row_progress import Progress
from rows import Row
from testing_helpers import REPOSITORY

PLAIN = REPOSITORY / "configs/mixskd/plain_resnet20_1xb64-20e_digits-16px.py"


def row(name, seed=0):
    return Row(name, "A", PLAIN, seed)


@pytest.fixture
def progress(tmp_path):
    for seed, seconds in ((0, 90.0), (1, 110.0)):
        (tmp_path / f"train_a_seed{seed}.json").write_text(json.dumps({"row": "a", "wall_s": seconds}))
    (tmp_path / "train_broken_seed0.json").write_text("{")
    return Progress(tmp_path)


def test_rows_take_as_long_as_they_did_with_other_seeds(progress):
    assert progress.seconds_left([], [row("a", 2), row("a", 3)], jobs=1) == 200
    assert progress.seconds_left([], [row("a", 2), row("a", 3)], jobs=2) == 100
    assert progress.seconds_left([], [row("a", 2), row("unknown")], jobs=1) == 200


def test_first_epochs_tell_of_rows_that_nobody_has_trained_yet(progress):
    now = time.monotonic()
    running = [(row("b"), 5, 3, 20, now - 30)]  # 2 epochs in 30 s: 300 s in all, three quarters of it left
    assert progress.seconds_left(running, [], jobs=1) == pytest.approx(225, abs=1)
    assert progress.seconds_left([], [row("b", 1)], jobs=1) == pytest.approx(300, abs=1)  # remembered


def test_the_end_is_not_before_the_longest_run(progress):
    running = [(row("a", 2), 0, 0, 20, time.monotonic())]
    assert progress.seconds_left(running, [], jobs=4) == 100


def test_line(progress, tmp_path):
    running = [(row("a", 2), 5, 5, 20, time.monotonic())]
    line = progress.line(3, running, [row("a", 3)], jobs=1)
    assert line.startswith("3 done, 1 running, 1 left; expected end ")
    assert line.endswith("(a, seed 2: 5 of 20)")
    assert "not known" in Progress(tmp_path / "empty").line(0, [], [row("x")], jobs=1)
