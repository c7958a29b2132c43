import json
import re

import pytest
from tables import documents, evaluations_table, group_table, length, pruning_table, rewritten, training_table
from testing_helpers import run_script as run

from mmkdprune.pruning import preset


@pytest.fixture
def results(tmp_path):
    def write(name, seed, **fields):
        row = {"row": name, "group": "A1", "config": "configs/a/b_digits-16px.py", "seed": seed}
        row |= {"epochs_run": 20, "epochs_planned": 20, **fields}
        (tmp_path / f"train_{name}_seed{seed}.json").write_text(json.dumps(row))

    for seed, last, best in ((1, 98.0, 99.0), (0, 99.0, 99.5)):
        write("a", seed, top1_last=last, top1_best=best)
    write("b", 0, top1_last=90.0, top1_best=91.0, epochs_run=5, config="configs/c/b.py")
    for seed, before, after in ((0, 90.0, 80.0), (1, 92.0, 84.0)):
        pruning = {"method": "sfp", "rate": 0.4, "top1_before": before, "top1_after": after}
        pruning |= {"zero": 4, "filters": 10, "exact_in_every_layer": True}
        write("sfp-0.4", seed, pruning=pruning, epochs_run=3, epochs_planned=200)
        moved = {**pruning, "method": "sfp-hard", "exchanged": 0.1 + 0.2 * seed}
        write("sfp-hard_only-0.4_net", seed, pruning=moved, epochs_run=3, epochs_planned=200)
    return tmp_path


def test_training_table(results):
    lines = training_table(results, ".").splitlines()
    assert lines[2:] == [
        "| `a` | 20 | 98.50 ± 0.71 | 99.25 ± 0.35 | 0, 1 |",
        "| `b` | 5 of 20 | 90.00 | 91.00 | 0 |",
    ]
    assert training_table(results, "^configs/c/").count("`") == 2


def test_group_table_has_pruned_rows_too(results):
    for seed in (0, 1):
        file = results / f"train_sfp-0.4_seed{seed}.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "top1_last": 80.0, "top1_best": 81.0}))
    lines = group_table(results, "A1").splitlines()
    assert len(lines) == 5
    assert "| `sfp-0.4` | 3 of 200 | 80.00 ± 0.00 | 81.00 ± 0.00 | 0, 1 |" in lines


def test_group_table_has_rows_that_other_groups_have_too(results):
    """The dense twin of the pruned rows is trained for another group."""
    name = "plain_resnet20_1xb64-80e_cifar100-20classes-16px"
    row = {"row": name, "group": "R", "config": "configs/a/b.py", "seed": 0, "epochs_run": 80, "epochs_planned": 80}
    row |= {"top1_last": 60.0, "top1_best": 61.0}
    (results / f"train_{name}_seed0.json").write_text(json.dumps(row))
    assert f"| `{name}` | 80 | 60.00 | 61.00 | 0 |" in group_table(results, "P")
    assert name not in group_table(results, "A1")


def test_pruning_table(results):
    text = pruning_table(results, ".")
    for method, exchanged in (("sfp", "not kept"), ("sfp-hard_only", "20.00 ± 14.14")):
        accuracies = "91.00 ± 1.41 | 82.00 ± 2.83"
        assert f"| 3 of 200 | {method} | 0.4 | {accuracies} | {exchanged} | 4 of 10 | yes | 0, 1 |" in text


def test_evaluations_table(results):
    for seed, value in ((0, 90.0), (1, 92.0)):
        network = {"checkpoint": "a.pth", "backbone": "x", "run": "run", "seed": seed}
        entry = {"evaluation": "k-NN", "data": "digits", "network": network, "metrics": {"top-1": value}}
        (results / f"evaluation_digits_seed{seed}.json").write_text(json.dumps({"evaluations": [entry]}))
    line = "| digits | run | 91.00 ± 1.41 (2 runs) |"
    assert line in evaluations_table(results, "digits").splitlines()


def test_marked_tables_are_made_anew(results):
    text = "x\n<!-- table: training ^configs/c/ -->\n| old |\n<!-- end of table -->\ny\n"
    new = rewritten(text, results)
    assert new.startswith("x\n<!-- table: training ^configs/c/ -->\n\n| row |")
    assert new.endswith("| 0 |\n\n<!-- end of table -->\ny\n")
    assert rewritten(new, results) == new
    with pytest.raises(ValueError, match="no kind of table is called 'poem'"):
        rewritten(text.replace("training", "poem"), results)
    with pytest.raises(ValueError, match="no result file is left for the table 'training nothing'"):
        rewritten(text.replace("^configs/c/", "nothing"), results)


def test_shortened_runs_say_so():
    assert length({"epochs_run": 3, "epochs_planned": 200}) == "3 of 200"


def test_documented_tables_are_those_of_the_result_files():
    assert len(documents()) >= 5
    assert "as they should be" in run("benchmarks/tables.py", "--check")


def test_recorded_prune_steps_cost_what_they_should(request):
    from rows import RESULTS

    for row in json.loads((RESULTS / "prune_step_cpu.json").read_text())["rows"]:
        assert row["step_over_epoch"] < 0.02
        assert row["enforce_over_train"] < 0.03


def test_recorded_pruning_runs_went_along_their_schedules():
    from rows import read_results

    rows = [row for row in read_results() if "pruning" in row]
    assert len(rows) > 40
    for row in rows:
        pruning = row["pruning"]
        method = re.sub("^weights-|-(mix|follow|taylor|hard_only)$", "", pruning["method"])
        schedules = [
            preset(method, pruning["rate"])[name] for name in ("rate_schedule", "decay_schedule", "hard_schedule")
        ]
        steps = [step for step in pruning["steps"] if not step["final"]]
        assert [step["t"] for step in steps] == list(range(row["epochs_run"]))
        for step in steps:
            expected = [schedule(step["t"], row["epochs_run"]) for schedule in schedules]
            assert [step["rate"], step["decay"], step["hard_share"]] == expected
        # Where masks move on, a filter that was let go may stay at the zero that it starts again from.
        moved_on = "-taylor-" in row["row"] and pruning["zero"] > steps[-1]["pruned"]
        assert pruning["exact_in_every_layer"] or moved_on
        assert pruning["zero"] == steps[-1]["zero"]
