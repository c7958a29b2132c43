"""Torch-Pruning's dependency graph as a second opinion on what must be removed together."""

import copy

import pytest
import torch
from compaction_nets import SIZE, classifier, count, prune
from torch import nn

from mmkdprune.pruning import compact

torch_pruning = pytest.importorskip("torch_pruning")


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg11bn", "mobilenetv2", "mobilenetv3", "densenet"])
def test_both_make_the_same_network(name):
    model = classifier(name)
    pruner = prune(model, "group")
    small, _ = compact(model, (3, SIZE, SIZE), check=False)
    other = copy.deepcopy(model)
    # a bare tensor would be unpacked, and its first image taken for a batch
    graph = torch_pruning.DependencyGraph().build_dependency(other, example_inputs=(torch.randn(2, 3, SIZE, SIZE),))
    for unit in pruner.units:
        layer = other.backbone.get_submodule(unit.name)
        if layer.out_channels != unit.size:
            continue  # removed with a group before
        indices = unit.pruned.nonzero().flatten().tolist()
        graph.get_pruning_group(layer, torch_pruning.prune_conv_out_channels, idxs=indices).prune()
    shapes = {key: value.shape for key, value in other.state_dict().items()}
    assert {key: value.shape for key, value in small.state_dict().items()} == shapes
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        torch.testing.assert_close(small(images), other.eval()(images), rtol=1e-4, atol=1e-5)
    assert count(other) < count(model)
    assert isinstance(other.fc, nn.Linear)
