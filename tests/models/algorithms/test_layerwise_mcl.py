import copy

import pytest
import torch
import torch.nn.functional as F
from testing_helpers import (
    assert_equal_states,
    assert_matches_golden,
    assert_overfits,
    assert_starts_as_the_plain_twin,
    build_model,
    count_parameters,
    det,
    forbid_host_synchronisation,
    golden,
    network,
    samples,
    set_shape_only_weights,
    trained_state,
)

from mmkdprune.engine.hooks.meta_step_hook import take_step
from mmkdprune.models.algorithms import LayerwiseMCL
from mmkdprune.models.losses import LayerwiseMutualContrastiveLoss, kd_loss

TERMS = LayerwiseMCL.loss_names
CONTRASTS = TERMS[3:]
STEP = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
WIDE = {
    "backbone": {"type": "mmkdprune.CifarWideResNet", "depth": 10, "widen_factor": 2},
    "head": {"type": "LinearClsHead", "num_classes": 10, "in_channels": 128},
}


def build(depth=8, **options) -> LayerwiseMCL:
    model = build_model("mmkdprune.LayerwiseMCL", **{**network(depth), **options})
    model.init_weights()
    return model.train()


def pairs(number=6, size=16):
    """Images, two of each class."""
    return torch.randn(number, 3, size, size), samples(*(index // 2 for index in range(number)))


def test_terms_are_those_of_the_objective_on_the_models_tensors():
    model = build(peers=[WIDE], loss_weights={"loss_kd": 0.5})
    images, data_samples = pairs()
    same = copy.deepcopy(model)
    target = torch.tensor([0, 0, 1, 1, 2, 2])
    logits, pooled = zip(*(net.forward_stages(images) for net in same.networks()), strict=True)
    assert [rows.shape[1] for rows in (*pooled[0], *pooled[1])] == [64] * 3 + [128] * 3
    expected = {"loss_ce": sum(F.cross_entropy(rows, target) for stages in logits for rows in stages)}
    aggregated = [head(p, z) for head, p, z in zip(same.aggregators, pooled, logits, strict=True)]
    expected["loss_aggregated_ce"] = sum(F.cross_entropy(rows, target) for rows in aggregated)
    expected["loss_kd"] = 0.5 * sum(kd_loss(z[-1], a, 3.0) for z in logits for a in aggregated)
    embeddings = [
        [same.projections[3 * net + stage](rows) for stage, rows in enumerate(stages)]
        for net, stages in enumerate(pooled)
    ]
    expected |= LayerwiseMutualContrastiveLoss()(embeddings, target, same.weight_network(pooled))
    for name in ("loss_vcl", "loss_icl"):
        expected[name] = 0.1 * expected[name]
    losses = model(images, data_samples, mode="loss")
    assert set(losses) == set(TERMS)
    torch.testing.assert_close(losses, expected)


# backbone, classifier's input channels, image size, depth of branches
NETWORKS = {
    "resnet32_cifar": ({"type": "mmkdprune.CifarResNet", "depth": 32}, 64, 32, "full"),
    "resnet110_cifar": ({"type": "mmkdprune.CifarResNet", "depth": 110}, 256, 32, "full"),
    "wrn_16_2_cifar": ({"type": "mmkdprune.CifarWideResNet", "depth": 16, "widen_factor": 2}, 128, 32, "full"),
    "ShuffleNetV2_1x_cifar": (
        {"type": "mmkdprune.CifarShuffleNetV2", "widen_factor": 1.0, "stem_kernel": 3},
        1024,
        32,
        "full",
    ),
    "resnet18_imagenet": ({"type": "ResNet", "depth": 18, "zero_init_residual": False}, 512, 64, "light"),
    "ShuffleNetV2_1x_imagenet": ({"type": "ShuffleNetV2", "widen_factor": 1.0}, 1024, 64, [2, "full", "full"]),
    "resnet50_imagenet": ({"type": "ResNet", "depth": 50, "zero_init_residual": False}, 2048, 64, "light"),
}


@pytest.mark.parametrize("entry", NETWORKS)
def test_networks_are_those_of_the_authors(entry):
    backbone, channels, size, branch_depth = NETWORKS[entry]
    expected = golden("kd_nets")[f"lmcl_{entry}"]
    model = build_model(
        "mmkdprune.LayerwiseMCL",
        backbone=backbone,
        neck={"type": "GlobalAveragePooling"},
        head={"type": "LinearClsHead", "num_classes": 10, "in_channels": channels},
        branch_depth=branch_depth,
        loss_weights={name: float(name == "loss_ce") for name in TERMS},
    ).double()
    assert count_parameters(model) == expected["params"]
    if "params_backbone" in expected:
        assert count_parameters(model.backbone, model.head) == expected["params_backbone"]
    set_shape_only_weights(model)
    with torch.no_grad():
        logits, pooled = model.train().forward_stages(det((4, 3, size, size), 0.0137, 0.2))
    assert [list(rows.shape) for rows in pooled] == expected["emb_shapes"]
    for own, theirs in zip(logits, expected["logits"], strict=True):
        assert_matches_golden(own, theirs)


def test_peer_0_has_the_keys_and_the_initial_weights_of_the_plain_twin():
    assert_starts_as_the_plain_twin(build, {"branches", "peers", "aggregators", "projections", "weight_network"})


def test_all_weights_zero_train_the_plain_network():
    ours = trained_state("mmkdprune.LayerwiseMCL", **network(8), loss_weights=dict.fromkeys(TERMS, 0.0))
    assert_equal_states(ours, trained_state("ImageClassifier", **network(8)))


def test_every_parameter_but_the_weight_networks_gets_a_gradient_whatever_the_weights():
    for zero in [(), *[(name,) for name in TERMS], CONTRASTS, TERMS[1:3]]:
        model = build(loss_weights=dict.fromkeys(zero, 0.0))
        sum(model(*pairs(), mode="loss").values()).backward()
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == (not name.startswith("weight_network.")), (zero, name)


def test_no_host_synchronisation_in_the_step(monkeypatch):
    model = build()
    images, data_samples = pairs()
    forbid_host_synchronisation(monkeypatch)
    sum(model(images, data_samples, mode="loss").values()).backward()


def test_overfits_a_few_images():
    assert_overfits(build(), steps=30)


def test_accuracies_of_networks_and_ensemble():
    model = build().eval()
    images, target = torch.randn(4, 3, 16, 16), torch.arange(4)
    assert set(model.train_only_accuracy(images, target)) == {"peer1/top1", "ensemble/top1"}
    assert set(build(evaluate_ensemble=False).train_only_accuracy(images, target)) == {"peer1/top1"}


# The meta step


def unrolled(model, images, data_samples, lr, momentum, weight_decay):
    """The gradient through the graph of all steps at once."""
    target = torch.cat([sample.gt_label for sample in data_samples])
    model = copy.deepcopy(model)
    model.weight_network.requires_grad_()
    guides = list(model.weight_network.parameters())
    names = [n for n, _ in model.named_parameters() if not n.startswith(("weight_network.", "aggregators."))]
    values = [dict(model.named_parameters())[name] for name in names]
    velocity = [torch.zeros_like(value) for value in values]

    class Call(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, method):
            return getattr(self.model, method)(images, target)

    def evaluate(method, values):
        state = {f"model.{name}": value for name, value in zip(names, values, strict=True)}
        state |= {f"model.{name}": buffer.clone() for name, buffer in model.named_buffers()}
        return torch.func.functional_call(Call(), state, (method,))

    for method in ("contrast_objective", "contrast_objective", "task_objective"):
        gradients = torch.autograd.grad(evaluate(method, values), values, create_graph=True, allow_unused=True)
        gradients = [torch.zeros_like(v) if g is None else g for g, v in zip(gradients, values, strict=True)]
        velocity = [momentum * v + g + weight_decay * x for v, g, x in zip(velocity, gradients, values, strict=True)]
        values = [x - lr * v for x, v in zip(values, velocity, strict=True)]
    return torch.autograd.grad(evaluate("task_objective", values), guides)


def test_weight_gradient_is_that_of_the_unrolled_steps(one_thread):
    torch.manual_seed(0)
    model = build().double()
    images, data_samples = pairs()
    gradients = model.weight_gradient(images.double(), data_samples, **STEP)
    assert max(gradient.abs().max() for gradient in gradients) > 0
    torch.testing.assert_close(tuple(gradients), unrolled(model, images.double(), data_samples, **STEP))


def test_meta_step_changes_the_weight_network_and_nothing_else():
    model = build()
    images, data_samples = pairs()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1, momentum=0.9)
    sum(model(images, data_samples, mode="loss").values()).backward()
    optimizer.step()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    gradients_before = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    random_before = torch.get_rng_state()
    gradients = model.weight_gradient(images, data_samples, **STEP)
    assert torch.equal(torch.get_rng_state(), random_before)
    assert_equal_states(model.state_dict(), before[0])
    own = torch.optim.SGD(model.weight_network.parameters(), nesterov=True, **STEP)
    take_step(own, model.weight_network, gradients, STEP)
    for name, value in model.state_dict().items():
        if not name.startswith("weight_network."):
            assert torch.equal(value, before[0][name]), name
    changed = [
        not torch.equal(model.state_dict()[n], before[0][n]) for n in before[0] if n.startswith("weight_network.")
    ]
    assert all(changed)
    torch.testing.assert_close(optimizer.state_dict(), before[1], rtol=0, atol=0)
    assert all(torch.equal(p.grad, gradients_before[n]) for n, p in model.named_parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_peers": 1}, "num_peers must be 2 or more networks in total, got 1"),
        ({"meta_interval": -1}, "meta_interval must be an integer of 0 or more, got -1"),
        ({"meta_steps": 0}, "meta_steps must be an integer of 1 or more, got 0"),
        ({"peers": [{"head": {**network()["head"], "num_classes": 5}}]}, "10 classes and peer 1 .* 5"),
        (
            {
                "peers": [
                    {
                        "backbone": {"type": "mmkdprune.CifarMobileNetV2"},
                        "head": {"type": "LinearClsHead", "num_classes": 10, "in_channels": 1280},
                    }
                ]
            },
            r"peer 0 \(CifarResNet-8\) has 3 stages and peer 1 \(CifarMobileNetV2\) 4",
        ),
        ({"branch_depth": "deep"}, "branch_depth must be one of"),
        ({"kd_temperature": 0}, "temperature must be a positive number, got 0"),
        ({"loss": {"tau": 0}}, "tau must be a positive number"),
        ({"loss_weights": {"loss_teacher": 1}}, r"unknown name\(s\) \['loss_teacher'\]"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_labels_beyond_the_head():
    with pytest.raises(ValueError, match=r"outside 0 ... 9, the range of 10 classes: got \[10\]"):
        build()(torch.randn(2, 3, 16, 16), samples(0, 10), mode="loss")
