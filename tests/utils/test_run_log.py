import json

from mmkdprune.utils.run_log import read_accuracies, read_log


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
    assert read_accuracies(tmp_path) == [10.0, 21.0, 30.0]
    assert len(read_log(tmp_path)) == 5
    assert read_accuracies(tmp_path / "absent") == []
