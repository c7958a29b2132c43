import json

import pytest
from result_files import epoch_values, make_result, write_result
from rows import Row
from testing_helpers import REPOSITORY

from mmkdprune.utils.command_line import UsageError
from mmkdprune.utils.pipeline import Phase

PLAIN = REPOSITORY / "configs/mixskd/plain_resnet20_1xb64-20e_digits-16px.py"


def test_epochs_without_accuracy_keep_their_place():
    log = [{"loss": 2.0, "epoch": 1, "step": 1}, {"loss": 1.0, "epoch": 1, "step": 2}]
    log += [{"loss": 9.0, "epoch": 2, "step": 3}, {"loss": 0.5, "epoch": 2, "step": 3}]  # trained again
    assert epoch_values(log, {2: 90.0}, 3) == [
        {"epoch": 1, "loss": 1.5},
        {"epoch": 2, "loss": 0.5, "top1": 90.0},
        {"epoch": 3},
    ]


def test_result_of_a_run(tmp_path):
    row = Row("a", "A", PLAIN, 1, ("train_cfg.max_epochs=2",))
    phase = Phase(str(PLAIN), row.settings(), tmp_path)
    folder = tmp_path / "20260101_000000" / "vis_data"
    folder.mkdir(parents=True)
    rows = [{"loss": 1.0, "epoch": epoch, "step": epoch, "time": 0.5, "memory": 7} for epoch in (1, 2)]
    rows += [{"accuracy/top1": 90.0, "step": 1}]
    (folder / "scalars.json").write_text("".join(json.dumps(entry) + "\n" for entry in rows))
    with pytest.raises(UsageError, match=r"last validation .* is missing"):
        make_result(row, [phase], "python x", 1, 3.0, 5)
    with (folder / "scalars.json").open("a") as stream:
        stream.write(json.dumps({"accuracy/top1": 80.0, "step": 2}) + "\n")
    result = make_result(row, [phase], "python x", 1, 3.0, 5)
    expected = {"top1_last": 80.0, "top1_best": 90.0, "best_epoch": 1, "epochs_run": 2, "epochs_planned": 20}
    expected |= {"images_per_s": 128.0, "peak_memory_mib": 7, "wall_s": 3.0, "overrides": ["train_cfg.max_epochs=2"]}
    assert {name: result[name] for name in expected} == expected


def test_a_result_is_never_replaced(tmp_path):
    file = tmp_path / "a.json"
    write_result(file, {"a": 1})
    with pytest.raises(FileExistsError, match="is not replaced"):
        write_result(file, {"a": 2})
    assert json.loads(file.read_text()) == {"a": 1}
