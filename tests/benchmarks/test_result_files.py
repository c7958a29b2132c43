import json

import pytest
from result_files import epoch_values, last_figure, make_result, read_result, rows_without_result, write_result
from rows import Row
from testing_helpers import REPOSITORY

from mmkdprune.commands.pipeline import Phase
from mmkdprune.errors import UsageError

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
        make_result(row, phase, "python x", 2, 1, 3.0, 5)
    with (folder / "scalars.json").open("a") as stream:
        stream.write(json.dumps({"accuracy/top1": 80.0, "step": 2}) + "\n")
    result = make_result(row, phase, "python x", 2, 1, 3.0, 5)
    expected = {"top1_last": 80.0, "top1_best": 90.0, "best_epoch": 1, "epochs_run": 2, "epochs_planned": 20}
    expected |= {"images_per_s": 128.0, "peak_memory_mib": 7, "wall_s": 3.0, "overrides": ["train_cfg.max_epochs=2"]}
    expected |= {"rows_at_once": 2, "threads": 1, "config_sha256": row.hash}
    assert {name: result[name] for name in expected} == expected
    assert "learns_from" not in result


def test_a_result_is_never_replaced(tmp_path):
    file = tmp_path / "a.json"
    write_result(file, {"a": 1})
    with pytest.raises(FileExistsError, match="is not replaced"):
        write_result(file, {"a": 2})
    assert json.loads(file.read_text()) == {"a": 1}


@pytest.mark.parametrize(
    ("config", "length", "metrics", "expected"),
    [
        (
            "detection/retinanet_r18-w16-cifar100_fpn_1xb8-16e_bccd-320x240",
            {"epochs_run": 16, "epochs_planned": 16},
            {4: {"coco/bbox_mAP": 0.5, "coco/bbox_mAP_50": 0.8}, 16: {"coco/bbox_mAP": 0.4, "coco/bbox_mAP_50": 0.7}},
            {"metric": "coco/bbox_mAP", "last": 40.0, "best": 50.0, "best_epoch": 4},
        ),
        (
            "segmentation/fpn_r18-w16-cifar100_1xb8-800_camvid-240x180",
            {"iterations_run": 800, "iterations_planned": 800},
            {200: {"mIoU": 20.0, "mAcc": 30.0}, 800: {"mIoU": 35.5, "mAcc": 45.0}},
            {"metric": "mIoU", "last": 35.5, "best": 35.5, "best_iter": 800},
        ),
    ],
)
def test_result_of_a_detector_and_of_a_segmentor(tmp_path, config, length, metrics, expected):
    row = Row("a", "T", REPOSITORY / f"configs/transfer/{config}.py", 0)
    phase = Phase(str(row.config), row.settings(), tmp_path)
    folder = tmp_path / "20260101_000000" / "vis_data"
    folder.mkdir(parents=True)
    records = [{"loss": 1.0, "step": 1, "time": 0.5}, *({**value, "step": step} for step, value in metrics.items())]
    (folder / "scalars.json").write_text("".join(json.dumps(entry) + "\n" for entry in records))
    result = make_result(row, phase, "python x", 1, 1, 3.0, 5)
    assert {name: result[name] for name in (*length, *expected)} == {**length, **expected}
    assert result["metrics_last"] == metrics[max(metrics)]
    assert len(result["log"]) == 2
    assert last_figure(result) == f"{expected['metric']} {expected['last']:.2f} %"
    write_result(tmp_path / row.file_name, result)
    assert read_result(tmp_path / row.file_name) == result


@pytest.fixture
def stored(tmp_path):
    row = Row("a", "A", PLAIN, 0)
    result = {"row": "a", "group": "A", "config": "x", "config_sha256": row.hash, "seed": 0, "epochs_run": 1}
    result |= {"epochs_planned": 1, "top1_last": 1.0, "top1_best": 1.0}
    file = tmp_path / row.file_name

    def store(**fields):
        file.write_text(json.dumps({**result, **fields}))
        return row, file

    return store


def test_rows_whose_result_is_there_are_left_out(stored, tmp_path):
    row, _ = stored()
    other = Row("a", "A", PLAIN, 1)
    assert rows_without_result([row, other], tmp_path) == [other]


def test_results_of_other_configs_are_named_and_kept(stored, tmp_path):
    row, file = stored(config_sha256="0123")
    before = file.read_bytes()
    with pytest.raises(UsageError, match=rf"1 stored results .*{file.name} \(hash 0123, now {row.hash}\).*move these"):
        rows_without_result([row], tmp_path)
    assert file.read_bytes() == before


@pytest.mark.parametrize("text", ["", '{"row": "a", "grou', "\0\0", "[]"])
def test_half_written_results_are_named(stored, tmp_path, text):
    row, file = stored()
    file.write_text(text)
    with pytest.raises(UsageError, match=rf"{file.name} is (damaged|not a whole result).*remove it"):
        rows_without_result([row], tmp_path)
    assert file.read_text() == text


def test_a_result_that_lacks_fields_or_has_another_name_is_refused(stored):
    _, file = stored(seed=3)
    with pytest.raises(UsageError, match="is the result of a, seed 3"):
        read_result(file)
    file.write_text('{"row": "a"}')
    with pytest.raises(UsageError, match="it lacks group, config, config_sha256"):
        read_result(file)
