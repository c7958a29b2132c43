"""Zeros that stay zero while a pruned network is trained on."""

import copy

import pytest
import torch
from toy_nets import make_classifier, make_task, train_steps

from mmkdprune.pruning import ZeroKeeper, make_pruner


def pruned(**settings):
    model = make_classifier()
    pruner = make_pruner(model, "hfp", 0.4, **settings)
    pruner.step(0, 1)
    pruner.finalize()
    return model, pruner


@pytest.mark.parametrize("coupling", ["independent", "group"])
def test_keeps_what_was_zero_and_nothing_else(coupling):
    model, source = pruned(coupling=coupling)
    before = copy.deepcopy(model.state_dict())
    keeper = ZeroKeeper(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert keeper.finalized
    assert keeper.frozen
    assert keeper.fully_pruned
    for name, mask in source.masks.items():
        assert torch.equal(keeper.masks[name], mask)
    report = keeper.report()
    assert report["zero"] == report["hard"] == sum(int(mask.sum()) for mask in source.masks.values())
    assert keeper.rate == pytest.approx(report["zero"] / report["filters"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for t in range(2):
        train_steps(model, optimizer, make_task(), 2)
        keeper.enforce(optimizer)
        keeper.step(t, 2)
    keeper.finalize()
    after = model.state_dict()
    for name, mask in keeper.masks.items():
        key = f"{keeper.scope}.{name}.weight".removeprefix(".")
        assert torch.equal((after[key] == 0).flatten(1).all(1), mask)
        assert not torch.equal(after[key][~mask], before[key][~mask])


def test_resumes():
    model, _ = pruned()
    state = ZeroKeeper(model).state_dict()
    other = ZeroKeeper(model)
    other.load_state_dict(state)
    assert other.state_dict()["settings"] == state["settings"]


def test_refuses_what_it_cannot_keep():
    with pytest.raises(ValueError, match=r"none of the .* filters in .* is zero, so there is nothing to keep"):
        ZeroKeeper(make_classifier())
    with pytest.warns(UserWarning, match="leaves a constant"):
        model, _ = pruned(bn_policy="none")
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.constant_(module.bias, 0.5)
    with pytest.raises(ValueError, match=r"still has a shift.*set bn_policy='none'"):
        ZeroKeeper(model)
    before = copy.deepcopy(model.state_dict())
    with pytest.warns(UserWarning, match="leaves a constant"):
        ZeroKeeper(model, bn_policy="none")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
