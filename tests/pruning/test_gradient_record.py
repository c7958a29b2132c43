"""Ranking by gradients: what is averaged, and that it is the same however the step is taken."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toy_nets import assert_same_weights, indices, make_classifier, make_task, train_pruned, train_steps

from mmkdprune.pruning import FilterPruner, make_pruner

TAYLOR = {"criterion": "taylor", "bn_policy": "scale"}


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, **options)


def watched(seed=0, method="sfp", optimizer=sgd, **overrides):
    model = make_classifier(seed)
    pruner = make_pruner(model, method, 0.4, **{**TAYLOR, **overrides})
    chosen = optimizer(model)
    pruner.attach_optimizer(chosen)
    return model, pruner, chosen


def mean_of(pruner, name):
    (unit,) = [unit for unit in pruner.units if unit.name == name]
    pruner.gradients.close()
    return pruner.gradients.of(unit)


def test_mean_absolute_gradient_of_the_scale_by_hand():
    model, pruner, optimizer = watched()
    model.train()
    images, labels = make_task()
    expected = torch.zeros(10)
    for start in (0, 16, 32):
        optimizer.zero_grad()
        F.cross_entropy(model(images[start : start + 16]), labels[start : start + 16]).backward()
        expected += model.backbone.layer1.bn2.weight.grad.abs() / 3
        optimizer.step()
    assert torch.allclose(mean_of(pruner, "layer1.conv2"), expected, rtol=1e-6)
    pruner.step(0, 10)
    assert indices(pruner.masks["layer1.conv2"]) == set(expected.argsort(stable=True)[:4].tolist())
    # the next average begins anew
    assert pruner.gradients.steps == 0


def test_masked_filters_are_judged_as_kept_ones_are():
    """A filter whose scale was set to zero comes back where the loss wants it more than one that is kept."""
    model, pruner, optimizer = watched()
    task = make_task()
    train_steps(model, optimizer, task, 8, pruner)
    pruner.step(0, 10)
    mask = pruner.masks["layer1.conv1"]
    masked, kept = int(mask.nonzero()[0]), int((~mask).nonzero()[0])
    model.backbone.layer1.bn1.weight.grad = torch.zeros(10)
    model.backbone.layer1.bn1.weight.grad[masked] = 1
    optimizer.step()
    pruner.step(1, 10)
    assert masked not in indices(pruner.masks["layer1.conv1"])
    assert kept in indices(pruner.masks["layer1.conv1"]) or mask.sum() < 9


def test_without_a_batch_norm_gradients_and_weights_are_multiplied():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3))
    pruner = FilterPruner(network, 0.4, criterion="taylor", scope="", include="^0$")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    pruner.attach_optimizer(optimizer)
    network(torch.randn(2, 3, 8, 8)).square().mean().backward()
    expected = (network[0].weight * network[0].weight.grad).flatten(1).sum(1).detach().abs()
    optimizer.step()
    assert torch.allclose(mean_of(pruner, "0"), expected, rtol=1e-5)


def test_depthwise_layers_are_gated_by_their_last_batch_norm():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 4, 1),
    )
    pruner = make_pruner(network, "sfp", 0.5, include="^0$|^3$", **TAYLOR)
    optimizer = sgd(network)
    pruner.attach_optimizer(optimizer)
    network(torch.randn(4, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    pruner.step(0, 10)
    mask = pruner.masks["0"]
    assert not network[4].weight[mask].any()
    assert network[4].weight[~mask].all()
    assert network[1].weight.all()
    assert network[0].weight.flatten(1).any(1).all()


def test_a_frozen_scale_gates_nothing():
    """It would never come back; the filter is scaled instead, as with bn_policy='follow'."""
    model = make_classifier()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
    other = copy.deepcopy(model)
    reports = []
    for network, policy in ((model, "scale"), (other, "follow")):
        pruner = make_pruner(network, "sfp", 0.4, bn_policy=policy)
        reports.append(train_pruned(network, pruner, make_task(), 3, 3, optimizer=sgd(network)))
    assert reports[0] == reports[1]
    assert_same_weights(model, other)


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_a_fused_optimizer_s_scaled_gradients_are_unscaled(scale):
    """A loss scaler leaves that to it, and whether the step is taken at all."""
    model, pruner, optimizer = watched(optimizer=lambda model: sgd(model, fused=True))
    images, labels = make_task()
    for overflow in (0.0, 1.0):
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(scale), torch.tensor(overflow)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        if not overflow:
            expected = model.backbone.bn1.weight.grad.abs()
        for parameter in model.parameters():
            parameter.grad *= scale if not overflow else float("inf")
        optimizer.step()
    assert torch.allclose(mean_of(pruner, "conv1") * 2, expected, rtol=1e-4)


def test_accumulated_batches_count_as_one_step():
    model, pruner, optimizer = watched()
    train_steps(model, optimizer, make_task(), 6, pruner, accumulate=3)
    assert pruner.gradients.steps == 2


def test_several_optimizers_each_read_their_own():
    model = make_classifier()
    pruner = make_pruner(model, "sfp", 0.4, **TAYLOR)
    parts = [list(model.backbone.parameters()), list(model.fc.parameters())]
    optimizers = [torch.optim.SGD(part, lr=0.05) for part in parts]
    pruner.attach_optimizer(*optimizers)
    images, labels = make_task()
    F.cross_entropy(model(images), labels).backward()
    gradient = model.backbone.bn1.weight.grad.abs().clone()
    for optimizer in optimizers:
        optimizer.step()
    average = mean_of(pruner, "conv1")
    assert torch.allclose(average * 2, gradient)  # a common factor, which no ranking sees


def test_state_goes_on_in_the_middle_of_an_average():
    model, pruner, optimizer = watched(method="ghfp-asrfp")
    train_pruned(model, pruner, make_task(), 4, 4, optimizer=optimizer)
    train_steps(model, optimizer, make_task(), 2, pruner)
    twin, other, _ = watched(method="ghfp-asrfp")
    twin.load_state_dict(model.state_dict())
    again = sgd(twin)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    other.load_state_dict(pruner.state_dict())
    other.attach_optimizer(again)
    for network, one, trainer in ((model, pruner, optimizer), (twin, other, again)):
        train_steps(network, trainer, make_task(), 3, one)
        one.step(3, 5)
        one.finalize()
    assert_same_weights(model, twin)
    assert pruner.report() == other.report()


def test_finalize_keeps_the_last_mask():
    model, pruner, optimizer = watched()
    train_pruned(model, pruner, make_task(), 3, 4, optimizer=optimizer)
    masks = {name: mask.clone() for name, mask in pruner.masks.items()}
    pruner.finalize()
    assert all(torch.equal(mask, masks[name]) for name, mask in pruner.masks.items())


def test_what_has_no_gradients_is_named():
    pruner = make_pruner(make_classifier(), "sfp", 0.4, **TAYLOR)
    with pytest.raises(ValueError, match=r"call pruner.attach_optimizer\(optimizer\) before training"):
        pruner.step(0, 10)
    model = make_classifier()
    model.backbone.layer1.requires_grad_(False)
    pruner = make_pruner(model, "sfp", 0.4, **TAYLOR)
    optimizer = sgd(model)
    pruner.attach_optimizer(optimizer)
    train_steps(model, optimizer, make_task(), 2, pruner)
    with pytest.raises(ValueError, match=r"layer1.conv1, layer1.conv2 had none, frozen or unused"):
        pruner.step(0, 10)


def test_hooks_come_off():
    model, pruner, optimizer = watched()
    pruner.remove_gradient_hooks()
    train_steps(model, optimizer, make_task(), 2, pruner)
    assert pruner.gradients.steps == 0
