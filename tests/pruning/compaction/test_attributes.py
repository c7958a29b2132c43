"""Sizes that modules keep as attributes follow their layers, so that blocks can be re-parameterised afterwards."""

import copy

import compactable_backbones as TABLE
import pytest
import torch
from compaction_nets import SIZE, build, prune, randomise
from torch import nn

from mmkdprune.pruning import apply_plan, compact
from mmkdprune.pruning.compaction.attributes import changed_sizes, kept_sizes, set_sizes, sizes_of_layers
from mmkdprune.pruning.compaction.plan import Plan

NETS = {
    "repvgg": {"type": "RepVGG", "arch": "A0"},
    "repvgg-groups": {"type": "RepVGG", "arch": "B1g2", "base_channels": 16},
    "mobileone": {"type": "MobileOne", "arch": "s0"},
}


def pruned(name, seed=0):
    torch.manual_seed(seed)
    return randomise(TABLE.Classifier(build(NETS[name]), SIZE).eval(), seed)


@pytest.mark.filterwarnings("ignore:zero filters do not become zero channels")
@pytest.mark.parametrize("name", NETS)
def test_a_compact_network_is_reparameterised(name):
    model = pruned(name)
    prune(model)
    small, plan = compact(model, (3, SIZE, SIZE))
    assert plan.attributes
    rebuilt = apply_plan(pruned(name, seed=1), Plan.from_dict(plan.to_dict()))
    rebuilt.load_state_dict(small.state_dict(), strict=True)
    images = torch.randn(2, 3, SIZE, SIZE)
    for network in (small, rebuilt):
        deployed = copy.deepcopy(network).eval()
        deployed.backbone.switch_to_deploy()
        assert not any(isinstance(module, nn.BatchNorm2d) for module in deployed.backbone.modules())
        with torch.no_grad():
            expected, found = network.eval()(images), deployed(images)
        assert ((expected - found).abs().max() / expected.abs().max()).item() < 1e-4


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.in_channels, self.mid_channels, self.base_channels, self.widths = 4, 6, 4, 6
        self.num_channels, self.groups, self.depth = [4, 6], 6, 6
        self.first, self.follow, self.last = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 6, 1)


def test_only_what_is_clear_is_changed():
    block = Block()
    kept, before = kept_sizes(block), sizes_of_layers(block)
    block.first = nn.Conv2d(3, 5, 1)
    block.follow = nn.Conv2d(5, 5, 3, groups=5)
    block.last = nn.Conv2d(5, 5, 1)
    changes = changed_sizes(kept, before, sizes_of_layers(block))
    assert changes == {
        "": {"in_channels": (4, 3), "mid_channels": (6, 5), "num_channels": ([4, 6], [3, 5]), "groups": (6, 5)}
    }
    assert set_sizes(block, changes)
    assert (block.in_channels, block.base_channels, block.depth) == (3, 4, 6)
    assert not set_sizes(block, changes), "they no longer have the old values"
    block.last = nn.Conv2d(5, 4, 1)  # 6 channels became 5 here and 4 there
    assert "mid_channels" not in changed_sizes(kept, before, sizes_of_layers(block))[""]
