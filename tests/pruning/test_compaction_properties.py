"""Random networks: what is compacted equals the pruned network; everything else is refused by name."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_blocks import BLOCKS
from random_networks import OUTPUTS, Spec, outcome, random_spec

from mmkdprune.pruning.channel_flow import ChannelFlow

SPECS = st.builds(
    Spec,
    blocks=st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=3).map(tuple),
    output=st.sampled_from(["logits", *OUTPUTS]),
    width=st.sampled_from([8, 12]),
    coupling=st.sampled_from(["group", "independent"]),
    bn_policy=st.sampled_from(["hard_only", "follow", "none"]),
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
