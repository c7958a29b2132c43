import json
import statistics
from pathlib import Path

import pytest
from rows import RESULTS
from testing_helpers import REPOSITORY


@pytest.mark.parametrize("method", ["mcl", "lmcl"])
def test_documented_accuracies_of_a_cohort_are_those_of_the_result_file(method):
    rows = json.loads((RESULTS / f"cohort_{method}_digits_cpu.json").read_text())["rows"]
    for row in rows:  # the same runs as those of the training rows
        file = f"train_{Path(row['config']).stem}_seed{row['seed']}.json"
        other = json.loads((RESULTS / file).read_text())
        assert (row["accuracy/top1"], row["epoch"]) == (other["top1_last"], other["epochs_run"])
    columns = [[row[name] for row in rows] for name in ("accuracy/top1", "peer1/top1", "ensemble/top1")]
    cells = [f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}" for values in columns]
    assert f"| {' | '.join(cells)} |" in (REPOSITORY / "configs" / method / "README.md").read_text()
