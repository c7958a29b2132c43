import json

import pytest


@pytest.fixture
def run(call):
    def run_tool(*arguments, status=0):
        code, output = call("analyze/plot_results.py", *arguments)
        assert code == status, output
        return output

    return run_tool


@pytest.fixture
def results(tmp_path):
    files = []
    for name, seed, start, log in (("a", 0, 50, True), ("a", 1, 52, True), ("b", 0, 60, False)):
        result = {"row": name, "seed": seed, "top1_last": start + 2, "epochs_run": 3, "images_per_s": 100.0 + start}
        result["epochs_planned"] = 3 if name == "a" else 30
        if log:
            result["log"] = [{"epoch": epoch, "top1": start + epoch} for epoch in (1, 2, 3)]
        if name == "b":
            result["pruning"] = {"paper_flops_reduction": 0.5}
        files.append(tmp_path / f"train_{name}_seed{seed}.json")
        files[-1].write_text(json.dumps(result))
    return files


@pytest.mark.parametrize("cost", ["time", "flops"])
def test_two_pictures(results, tmp_path, cost, run):
    output = run(*results, "--cost", cost, "--out", tmp_path / "out")
    for name in ("accuracy_over_epochs.png", "accuracy_against_cost.png"):
        assert str(tmp_path / "out" / name) in output
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
    assert "there already" in run(*results, "--out", tmp_path / "out", status=1)


def test_rows_without_epochs_and_mistakes(results, tmp_path, run):
    output = run(*results, "--match", "^b$", "--out", tmp_path / "b")
    assert "that picture is left out" in output
    assert [file.name for file in (tmp_path / "b").iterdir()] == ["accuracy_against_cost.png"]
    assert "no row of the given files matches 'c'" in run(*results, "--match", "c", status=1)
    assert "there is no file" in run(tmp_path / "absent.json", status=1)
    other = tmp_path / "other.json"
    other.write_text("[]")
    assert "is no result of benchmarks/reproduce.py" in run(other, status=1)
    other.write_text("{")
    assert "is no JSON file" in run(other, status=1)
