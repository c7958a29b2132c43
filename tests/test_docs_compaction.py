"""docs/compaction.md: its table is that of the networks, its Python lines run."""

import json
import re

import pytest
from compaction_nets import TABLE, classifier, prune
from testing_helpers import REPOSITORY

PAGE = (REPOSITORY / "docs" / "compaction.md").read_text()


def test_the_table_is_that_of_the_results():
    rows = json.loads(TABLE.RESULTS.read_text())["rows"]
    assert [row["backbone"] for row in rows] == list(TABLE.BACKBONES)
    assert TABLE.page_with(PAGE, rows) == PAGE
    for row in rows:
        for coupling in ("independent", "group"):
            if row[coupling]:
                assert row[coupling]["params"] < row["params"]
                assert row[coupling]["error_float32"] < 1e-5
                assert row[coupling]["error_float64"] < 1e-12


@pytest.mark.parametrize("title", ["MobileNetV3-small", "CifarMobileNetV2"])
def test_the_results_are_those_of_the_code(title):
    (row,) = [row for row in json.loads(TABLE.RESULTS.read_text())["rows"] if row["backbone"] == title]
    measured = TABLE.measure(title)
    assert (measured["macs"], measured["params"]) == (row["macs"], row["params"])
    for coupling in ("independent", "group"):
        # the same random weights, up to what another processor rounds otherwise
        for name in ("macs", "params"):
            assert measured[coupling][name] == pytest.approx(row[coupling][name], rel=0.02)
        assert measured[coupling]["error_float32"] < 1e-5


def test_the_python_lines_run(tmp_path, monkeypatch):
    _, lines = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.M | re.S)
    monkeypatch.chdir(tmp_path)
    model = classifier("cifar_resnet")
    prune(model)
    names = {"model": model, "dense_model_of_the_same_architecture": classifier("cifar_resnet", seed=1)}
    exec(lines.replace("(3, 224, 224)", "(3, 32, 32)"), names)
    small, rebuilt = names["small"], names["dense_model_of_the_same_architecture"]
    rebuilt.load_state_dict(small.state_dict(), strict=True)
