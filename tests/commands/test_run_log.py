import json

from mmkdprune.commands.run_log import read_accuracies, read_log
from mmkdprune.commands.work_dir import set_logs_aside


def test_interrupted_runs_are_read_as_one(tmp_path):
    for name, rows in {
        "20260101_000000": [
            {"loss": 1.0, "step": 1},
            {"accuracy/top1": 10.0, "step": 1},
            {"accuracy/top1": 20.0, "step": 2},
        ],
        "20260101_000001": [{"accuracy/top1": 21.0, "step": 2}, {"accuracy/top1": 30.0, "step": 3}],
    }.items():
        folder = tmp_path / name / "vis_data"
        folder.mkdir(parents=True)
        (folder / "scalars.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_accuracies(tmp_path) == {1: 10.0, 2: 21.0, 3: 30.0}
    assert len(read_log(tmp_path)) == 5
    assert read_accuracies(tmp_path / "absent") == {}


def test_an_overwritten_run_is_not_a_part_of_the_new_one(tmp_path):
    for name, accuracy in (("20260101_000000", 10.0), ("20260101_000001", 20.0)):
        folder = tmp_path / name / "vis_data"
        folder.mkdir(parents=True)
        (folder / "scalars.json").write_text(json.dumps({"accuracy/top1": accuracy, "step": 1}) + "\n")
    set_logs_aside(tmp_path, keep="20260101_000001")
    assert read_accuracies(tmp_path) == {1: 20.0}
    assert (tmp_path / "overwritten_20260101_000000" / "vis_data" / "scalars.json").is_file()
