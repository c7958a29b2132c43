import importlib
import json

import pytest

import mmkdprune  # noqa: F401  mmcv._ext is there after it

COMPILED = getattr(importlib.import_module("mmcv._ext"), "__file__", None) is not None


def test_operators(tmp_path, run_here):
    out = tmp_path / "operators.json"
    command = ["benchmarks/operators.py", "--operators", "nms, ", "bbox", "--rounds", 1, "--out", out]
    if not COMPILED:
        assert "no compiled MMCV" in run_here(*command, status=1)
        return
    run_here(*command)
    assert [row["operator"].split(",")[0] for row in json.loads(out.read_text())["rows"]] == ["nms", "bbox_overlaps"]
    assert "exists already" in run_here(*command, status=1)


@pytest.mark.slow
def test_detector_inference(tmp_path, run_here):
    pytest.importorskip("mmdet")
    out = tmp_path / "detectors.json"
    command = ["benchmarks/detector_inference.py", "--detectors", "retinanet_r18", "--rates", 0.4, "--size", 64]
    command += ["--rounds", 1, "--out", out]
    assert "of_expected" in run_here(*command)
    (row,) = json.loads(out.read_text())["rows"]
    # the rest of the detector weighs four times as much, and 0.6 ** 2 of most convolutions is left
    assert 0.15 < row["backbone_share"] < 0.25
    assert 0.3 < row["backbone_left"] < 0.45
    assert row["expected"] == pytest.approx(1 / (1 - row["backbone_share"] * (1 - row["backbone_left"])), abs=0.01)
