"""Random networks: what is compacted equals the pruned network; everything else is refused by name."""

import json
import re
import shlex
import sys

import pytest
import random_networks
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_blocks import BLOCKS
from random_networks import OUTPUTS, Spec, outcome, random_spec
from testing_helpers import REPOSITORY

from mmkdprune.pruning.tracing.channels import ChannelFlow

SPECS = st.builds(
    Spec,
    blocks=st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=3).map(tuple),
    output=st.sampled_from(["logits", *OUTPUTS]),
    width=st.sampled_from([8, 12]),
    coupling=st.sampled_from(["group", "independent"]),
    bn_policy=st.sampled_from(["follow", "scale", "hard_only", "none"]),
    rate=st.sampled_from([0.25, 0.4, 0.6]),
    by_chance=st.booleans(),
    seed=st.integers(0, 2**16),
)


@pytest.fixture(autouse=True)
def strict(monkeypatch):
    """An error in a rule is raised; users get the layer refused."""
    monkeypatch.setattr(ChannelFlow, "strict", True)


@pytest.mark.slow
@settings(max_examples=100, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(spec=SPECS)
def test_equal_or_refused(spec):
    found = outcome(spec)
    assert found["outcome"] in ("equal", "refused"), found["reason"]


def test_most_networks_can_be_compacted():
    found = [outcome(random_spec(seed))["outcome"] for seed in range(12)]
    assert set(found) <= {"equal", "refused"}
    assert found.count("equal") >= 0.6 * len(found)


def test_there_are_enough_kinds_of_blocks():
    assert len(BLOCKS) >= 60


@pytest.mark.parametrize("page", ["docs/compaction.md", "CONTRIBUTING.md", "tests/random_networks.py"])
def test_the_documented_command_runs(page, monkeypatch, capsys, tmp_path):
    """With two networks in place of thousands."""
    text = (REPOSITORY / page).read_text()
    commands = re.findall(r"PYTHONPATH=\. python (tests/random_networks\.py \d+(?: --[a-z]+ [\w.]+)*)", text)
    assert commands
    script, number, *options = shlex.split(commands[-1])
    assert (REPOSITORY / script).is_file()
    assert int(number) > 2
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script, "2", *options])
    try:
        random_networks.main()
    finally:
        torch.set_num_threads(threads)
    assert re.search(r"^\{'(equal|refused)': \d.* s of processor time$", capsys.readouterr().out, flags=re.M)
    for file in tmp_path.glob("*.jsonl"):
        assert [json.loads(line)["outcome"] in ("equal", "refused") for line in file.read_text().splitlines()] == [
            True
        ] * 2
    assert len(list(tmp_path.iterdir())) == options.count("--out")
