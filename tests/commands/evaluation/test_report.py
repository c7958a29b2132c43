import json

import pytest

from mmkdprune.commands.evaluation.report import (
    evaluation_report,
    make_entry,
    markdown_table,
    read_reports,
    write_report,
)
from mmkdprune.errors import UsageError


def entry(run="mcl", value=90.0, metric="k = 20, top-1", seed=0, **network):
    network = {"checkpoint": "epoch_1.pth", "backbone": "CifarResNet-8", "run": run, "seed": seed, **network}
    return make_entry("k-NN", "digits", network, {metric: value}, temperature=0.07)


def test_seeds_of_a_run_are_one_row():
    entries = [entry(value=90.0), entry(value=92.0, seed=1), entry("moco", [80.0, 0.5]), entry(weights="random")]
    lines = markdown_table(entries).splitlines()
    assert lines[0] == "| data | network | k = 20, top-1 |"
    assert lines[2:] == [
        "| digits | mcl | 91.00 ± 1.41 (2 runs) |",
        "| digits | moco | 80.00 ± 0.50 |",
        "| digits | CifarResNet-8, random initialisation | 90.00 |",
    ]


def test_columns_name_the_evaluation_where_there_are_several():
    probe = make_entry("linear probe", "digits", entry()["network"], {"top-1": 95.0})
    lines = markdown_table([entry(), probe]).splitlines()
    assert lines[0] == "| data | network | k-NN: k = 20, top-1 | linear probe: top-1 |"
    assert lines[2] == "| digits | mcl | 90.00 | 95.00 |"


def test_missing_figures_leave_a_cell_empty():
    lines = markdown_table([entry(), entry("moco", 1.0, "k = 5"), entry(peer=1)]).splitlines()
    assert lines[2:] == [
        "| digits | mcl | 90.00 |  |",
        "| digits | moco |  | 1.00 |",
        "| digits | mcl, peer 1 | 90.00 |  |",
    ]


def test_files_are_written_once_and_read_back(tmp_path):
    file = tmp_path / "a.json"
    report = evaluation_report([entry()], "python tools/knn.py")
    write_report(file, report)
    assert read_reports([file, file]) == [entry(), entry()]
    assert {"command", "date", "hardware", "versions"} <= json.loads(file.read_text()).keys()
    with pytest.raises(UsageError, match="exists already"):
        write_report(file, report)
    write_report(file, report, overwrite=True)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UsageError, match="there is no file"):
        read_reports([tmp_path / "absent.json"])
    (tmp_path / "b.json").write_text("[]")
    with pytest.raises(UsageError, match="is no result of an evaluation tool"):
        read_reports([tmp_path / "b.json"])
