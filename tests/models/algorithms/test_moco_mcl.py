import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import OptimWrapper
from mmengine.runner.checkpoint import get_state_dict, load_state_dict
from testing_helpers import (
    assert_equal_states,
    build_model,
    count_parameters,
    det,
    forbid_host_synchronisation,
    golden,
    one_graph,
    run_two_processes,
    set_shape_only_weights,
)
from torch import nn

from mmkdprune.models.algorithms import MoCoMCL
from mmkdprune.models.utils.compilation import compile_training

TERMS = MoCoMCL.loss_names
LINEAR = {"type": "LinearNeck", "in_channels": 64, "out_channels": 16, "gap_dim": 2, "norm_cfg": None}
MLP = {"type": "MoCoV2Neck", "in_channels": 64, "hid_channels": 32, "out_channels": 16}
HEAD = {"type": "ContrastiveHead", "temperature": 0.2, "loss": {"type": "CrossEntropyLoss"}}
NETWORK = {
    "backbone": {"type": "mmkdprune.CifarResNet", "depth": 8},
    "neck": LINEAR,
    "head": HEAD,
    "queue_len": 24,
    "feat_dim": 16,
}


def build(name="mmkdprune.MoCoMCL", **options):
    torch.manual_seed(5)
    model = build_model(name, **{**NETWORK, **options})
    model.init_weights()
    return model.train()


def views(number=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(number, 3, 16, 16, generator=generator) for _ in range(2)]


def train(model, steps=4, number=4, lr=0.05, first=0):
    """Take steps; return what each of them logs."""
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr, momentum=0.9))
    logs = []
    for step in range(first, first + steps):
        losses = model(views(number, step), None, mode="loss")
        total, _ = model.parse_losses(losses)
        optimizer.update_params(total)
        logs.append({name: value.item() for name, value in losses.items()})
    return logs


@pytest.mark.parametrize("neck", [LINEAR, MLP], ids=["v1", "v2"])
def test_one_network_is_moco(neck):
    """MMPretrain's own, from the same seed: queue, key encoder, losses and weights after some steps."""
    ours, theirs = build(num_peers=1, neck=neck, momentum=0.1), build("MoCo", neck=neck, momentum=0.1)
    assert torch.equal(ours.criterion.queues[0].T, theirs.queue)
    own, plain = ours.state_dict(), theirs.state_dict()
    shared = [name for name in plain if name.split(".")[0] in ("backbone", "neck")]
    assert shared == [name for name in own if name.split(".")[0] in ("backbone", "neck")]
    assert all(torch.equal(own[name], plain[name]) for name in shared)
    logs = [train(model, 8, lr=0.01) for model in (ours, theirs)]  # 24 keys of 4: beyond the end of the ring
    assert [row["loss_vcl"] for row in logs[0]] == pytest.approx([row["loss"] for row in logs[1]], rel=1e-4)
    own, plain = ours.state_dict(), theirs.state_dict()
    for name in shared:
        torch.testing.assert_close(own[name], plain[name], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(own["criterion.queues"][0].T, plain["queue"], rtol=1e-3, atol=1e-4)
    assert own["criterion.pointer"].tolist() == plain["queue_ptr"].tolist() == [8]


def test_more_networks_start_peer_0_alike_and_differ_from_each_other():
    after = []
    for options in ({"num_peers": 1}, {"num_peers": 3}):
        model = build(**options)
        after.append(
            ({k: v for k, v in model.state_dict().items() if k.startswith(("backbone", "neck"))}, torch.rand(1))
        )
    assert_equal_states(after[0][0], after[1][0])
    assert torch.equal(after[0][1], after[1][1])
    weights = [network.backbone.layer1[0].conv1.weight for network in model.networks()]
    assert all(not torch.equal(a, b) for index, a in enumerate(weights) for b in weights[:index])
    queues = model.criterion.queues
    assert not torch.equal(queues[0], queues[1])
    torch.testing.assert_close(queues.norm(dim=2), torch.ones(3, 24))
    prefixes = {name.split(".")[0] for name in model.state_dict()}
    assert prefixes == {"backbone", "neck", "peers", "key_encoders", "criterion"}


def test_queries_before_the_update_of_key_encoders_before_keys():
    model, seen = build(), []
    for index, network in enumerate(model.networks()):
        network.backbone.register_forward_hook(lambda *args, i=index: seen.append(f"query {i}"))
    for index, encoder in enumerate(model.key_encoders):
        encoder.backbone.register_forward_hook(lambda *args, i=index: seen.append(f"key {i}"))
        update = encoder.update
        encoder.update = lambda *args, update=update, i=index: (seen.append(f"update {i}"), update(*args))
    model(views(), None, mode="loss")
    assert seen == [f"{what} {index}" for what in ("query", "update", "key") for index in range(2)]


def test_key_encoders_get_no_gradient_and_follow_their_network_exactly():
    model = build(momentum=0.1)
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), 0.05))
    expected = None
    for step in range(3):
        queries = [
            [p.detach().clone() for p in (*n.backbone.parameters(), *n.neck.parameters())] for n in model.networks()
        ]
        if expected is None:
            expected = queries
        else:
            for averages, values in zip(expected, queries, strict=True):
                for average, value in zip(averages, values, strict=True):
                    average.lerp_(value, 0.1)
        optimizer.update_params(model.parse_losses(model(views(seed=step), None, mode="loss"))[0])
        for encoder, averages in zip(model.key_encoders, expected, strict=True):
            assert all(torch.equal(p, average) for p, average in zip(encoder.parameters(), averages, strict=True))
    assert all(not p.requires_grad and p.grad is None for p in model.key_encoders.parameters())
    # Statistics are the key encoder's own.
    bn, own = model.key_encoders[0].backbone.bn1, model.backbone.bn1
    assert bn.num_batches_tracked == 3
    assert not torch.equal(bn.running_mean, own.running_mean)


def test_key_encoders_take_over_weights_that_are_loaded_later_but_not_over_those_of_a_checkpoint():
    model, trained = build(), build()
    train(trained, 2)
    backbone = {k: v for k, v in trained.state_dict().items() if k.startswith("backbone.")}
    load_state_dict(model, backbone, strict=False)
    model(views(), None, mode="loss")
    assert torch.equal(model.key_encoders[0].backbone.conv1.weight, trained.backbone.conv1.weight)
    again = build()
    load_state_dict(again, get_state_dict(trained))
    again(views(), None, mode="loss")
    mean = torch.lerp(trained.key_encoders[0].backbone.conv1.weight, trained.backbone.conv1.weight, 0.001)
    assert torch.equal(again.key_encoders[0].backbone.conv1.weight, mean)


class Affine(nn.Module):
    """The golden encoders: flattens and multiplies."""

    def __init__(self, a, b, bias):
        super().__init__()
        self.fc = nn.Linear(6, 4).double()
        self.fc.weight.data, self.fc.bias.data = det((4, 6), a, b), det((4,), *bias)

    def forward(self, x):
        return self.fc(x)


def test_golden_step():
    """Encoders, key update, losses and queues of the authors' module, one step."""
    expected = golden("kd_losses")["mcl_moco"]
    model = build(queue_len=8, feat_dim=4, neck={**LINEAR, "out_channels": 4}, momentum=0.1).double()
    model.criterion.tau = 0.07
    for i, (network, encoder) in enumerate(zip(model.networks(), model.key_encoders, strict=True)):
        network.backbone, network.neck = nn.Identity(), Affine(0.31 + 0.1 * i, 0.2 * i, (0.7, 0.1 * i, 0.1))
        encoder.backbone, encoder.neck = nn.Identity(), Affine(0.27 + 0.1 * i, 0.3 * i, (0.5, 0.2 * i, 0.1))
        encoder._has_started = True
    model.criterion.queues = F.normalize(det((2, 4, 8), 0.43, 0.2), dim=1).transpose(1, 2).contiguous()
    losses = model([det((2, 6), 0.9, 0.1), det((2, 6), 1.1, 0.4)], None, mode="loss")
    for name in TERMS:
        assert losses[name].item() == pytest.approx(expected[name.removeprefix("loss_")], abs=1e-6), name
    key = model.key_encoders[0].neck.fc.weight[0]
    assert key.tolist() == pytest.approx(expected["key0_w_row0_after_ema"], abs=1e-6)
    state = model.state_dict()
    assert state["criterion.queues"][0, 0].tolist() == pytest.approx(expected["queue0_col0_after"], abs=1e-6)
    assert state["criterion.pointer"].tolist() == [2]


def test_the_authors_networks():
    """ResNet-18 with a linear layer of 128: torchvision's, whose logits are in the golden values of MCL."""
    neck = {"type": "LinearNeck", "in_channels": 512, "out_channels": 10, "gap_dim": 2, "norm_cfg": None}
    backbone = {"type": "ResNet", "depth": 18, "zero_init_residual": False}
    model = build(backbone=backbone, neck=neck, feat_dim=10).double()
    entry = golden("kd_nets")["mcl_in_resnet18_x2"]
    assert [count_parameters(encoder) for encoder in model.key_encoders] == [entry["params"] // 2] * 2
    images = det((4, 3, 64, 64), 0.0137, 0.2)
    for network in model.networks():
        set_shape_only_weights(network)
        logits = network.neck(network.backbone(images))[0]
        assert logits[0, :4].tolist() == pytest.approx(entry["logits0"]["first"], abs=2e-6)


def test_terms_between_networks_do_not_disturb_contrast_within():
    """With the weight of loss_vcl alone, each network trains as it would alone."""
    weights = dict.fromkeys(TERMS[1:], 0.0)
    alone, cohort = build(num_peers=1), build(num_peers=2, loss_weights=weights)
    train(alone, 3, lr=0.01), train(cohort, 3, lr=0.01)
    other = cohort.state_dict()
    for name, value in alone.state_dict().items():
        if name.startswith(("backbone", "neck")):
            torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-5)


def test_weights_scale_the_terms():
    weights = {"loss_vcl": 0.5, "loss_icl": 0.0, "loss_soft_vcl": 2.0}
    plain, weighted = (build(**options)(views(), None, mode="loss") for options in ({}, {"loss_weights": weights}))
    assert set(plain) == {*TERMS, "contrast_accuracy"}
    for name in TERMS:
        torch.testing.assert_close(weighted[name], weights.get(name, 1.0) * plain[name])
    total, logged = build().parse_losses(plain)
    torch.testing.assert_close(total, sum(plain[name] for name in TERMS))
    assert "contrast_accuracy" in logged


def test_contrast_accuracy_is_the_share_of_keys_that_are_found():
    model = build()
    first, _ = views()
    # The same views and the same weights: query and key are one.
    assert model([first, first], None, mode="loss")["contrast_accuracy"] == 100
    model.criterion.write_waiting()
    with torch.no_grad():
        model.criterion.queues[0, 0] = -model.compute_keys(first)[0, 0]
        model.criterion.queues[0, 1:] = F.normalize(-model.compute_keys(first)[:1, 0], dim=1)
    assert model([first, first], None, mode="loss")["contrast_accuracy"] == 100


@pytest.mark.parametrize("options", [{}, {"num_peers": 1}, {"num_peers": 3, "neck": MLP}], ids=["x2", "x1", "x3-mlp"])
def test_every_query_parameter_gets_a_gradient(options):
    model = build(**options)
    model.parse_losses(model(views(), None, mode="loss"))[0].backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    trained = count_parameters(*(part for n in model.networks() for part in (n.backbone, n.neck)))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained


def test_networks_may_differ():
    peer = {"backbone": {"type": "mmkdprune.CifarWideResNet", "depth": 10, "widen_factor": 2}}
    peer["neck"] = {**MLP, "in_channels": 128}
    model = build(peers=[peer])
    assert train(model, 2)[-1]["loss_icl"] > 0


def test_learns_to_tell_images_apart():
    """Contrast on a few images that come again: the keys of the others are in the queue."""
    shares = {}
    for lr in (0.0, 0.05):
        model = build(momentum=0.1, queue_len=32)
        optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr, momentum=0.9))
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(48, 3, 16, 16, generator=generator)
        history = []
        for step in range(48):
            part = images[(8 * step) % 48 :][:8]
            pair = [part + 0.7 * torch.randn(part.shape, generator=generator) for _ in range(2)]
            losses = model(pair, None, mode="loss")
            optimizer.update_params(model.parse_losses(losses)[0])
            history.append(losses["contrast_accuracy"].item())
        shares[lr] = sum(history[-12:]) / 12
    assert shares[0.05] > shares[0.0] + 10, shares


def test_evaluation_and_features_leave_queue_and_key_encoders_alone():
    model = build()
    train(model, 1)
    before = copy.deepcopy(model.state_dict())
    model.eval()
    with torch.no_grad():
        model(views(), None, mode="loss")
        features = model(views()[0], mode="tensor")
    assert features[-1].shape == (4, 64, 4, 4)
    assert_equal_states(model.state_dict(), before)


# Shuffle BN


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_keys_come_back_in_order(groups):
    """Under frozen statistics the order of the images cannot matter; in training it is shuffled."""
    model = build(num_groups=groups).eval()
    images = views(6)[0]
    expected = torch.stack([encoder(images) for encoder in model.key_encoders], 1)
    torch.testing.assert_close(model.compute_keys(images), expected)
    seen = []
    model.key_encoders[0].backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.compute_keys(images)
    assert [len(part) for part in seen] == [6 // groups] * groups
    assert torch.equal(torch.cat(seen), images) == (groups == 1)


def test_one_order_for_all_networks_and_none_from_the_global_stream():
    model = build(num_groups=2, num_peers=3)
    seen = [[] for _ in range(3)]
    for encoder, parts in zip(model.key_encoders, seen, strict=True):
        encoder.backbone.register_forward_pre_hook(lambda module, args, parts=parts: parts.append(args[0]))
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    for step in range(2):
        model(views(seed=step), None, mode="loss")
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*seen, strict=True))


def test_groups_have_statistics_of_their_own():
    torch.manual_seed(0)
    model, images = build(num_groups=2), views(4)
    together, apart = build(num_groups=1).encode_queries(images[0])[0], model.encode_queries(images[0])[0]
    halves = torch.cat([model.neck(model.backbone(part))[0] for part in images[0].chunk(2)])
    torch.testing.assert_close(apart, F.normalize(halves, dim=1))
    assert not torch.allclose(apart, together, atol=1e-3)


def test_two_processes(tmp_path):
    run_two_processes("ddp_moco_mcl.py", tmp_path)


# State


@pytest.mark.parametrize("groups", [1, 2])
def test_resumed_training_is_the_same_bit_for_bit(groups):
    options = {"momentum": 0.1, "num_groups": groups, "num_peers": 2}
    whole = build(**options)
    expected = train(whole, 3), train(whole, 4, first=3)  # a fresh optimizer for each part
    first = build(**options)
    assert train(first, 3) == expected[0]
    second = build(**options)
    load_state_dict(second, copy.deepcopy(get_state_dict(first)))
    second.shuffle.load_state_dict(first.shuffle.state_dict())
    assert train(second, 4, first=3) == expected[1]
    assert_equal_states(second.state_dict(), whole.state_dict())


def test_gradient_accumulation():
    model = build()
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), 0.05), accumulative_counts=2)
    optimizer.initialize_count_status(model, 0, 4)
    before = model.backbone.conv1.weight.clone()
    for step in range(4):
        with optimizer.optim_context(model):
            total = model.parse_losses(model(views(seed=step), None, mode="loss"))[0]
        optimizer.update_params(total)
        assert torch.equal(model.backbone.conv1.weight, before) == (step < 1)
    assert model.state_dict()["criterion.pointer"].tolist() == [16]


def test_mixed_precision_keeps_queues_and_terms_in_float32():
    model = build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(views(), None, mode="loss")
    assert all(losses[name].dtype == torch.float32 and losses[name].isfinite() for name in TERMS)
    assert model.state_dict()["criterion.queues"].dtype == torch.float32


@pytest.mark.parametrize("groups", [1, 2])
def test_no_host_synchronisation_in_the_step(groups, monkeypatch):
    model, images = build(num_groups=groups), views()
    model(images, None, mode="loss")
    forbid_host_synchronisation(monkeypatch)
    for _ in range(2):
        sum(value for name, value in model(images, None, mode="loss").items() if "loss" in name).backward()


@one_graph
def test_compiled_step_is_the_plain_one():
    plain, compiled = (build(num_groups=2, momentum=0.1) for _ in range(2))
    graphs = []

    def backend(module, inputs):
        graphs.append(module)
        return module.forward

    assert compile_training(compiled, backend=backend, fullgraph=True) == "all encoders and losses of the step"
    assert list(compiled.state_dict()) == list(plain.state_dict())
    expected, actual = (train(model, 3) for model in (plain, compiled))
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert 3 <= len(graphs) <= 6
    torch.testing.assert_close(compiled.state_dict()["criterion.queues"], plain.state_dict()["criterion.queues"])


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_peers": 0}, "num_peers must be 1 or more networks in total, got 0"),
        ({"peers": []}, r"at least one network beside the deployable one, got \[\]"),
        ({"peers": [{"head": HEAD}]}, "peer 1 has a head, which no peer needs"),
        (
            {"peers": [{"neck": {**LINEAR, "out_channels": 8}}]},
            "peer 1 gives embeddings of 8 dimensions, but feat_dim=16",
        ),
        ({"feat_dim": 32}, "peer 0 gives embeddings of 16 dimensions, but feat_dim=32"),
        ({"neck": None}, "needs a neck that makes the embeddings: set neck=dict.*MoCoV2Neck"),
        ({"momentum": 1.5}, "momentum must lie between 0 and 1, got 1.5"),
        ({"num_groups": 0}, "num_groups must be an integer of 1 or more, got 0"),
        ({"queue_len": 0}, "queue_size must be an integer of 1 or more, got 0"),
        ({"temperature": 0}, "temperature must be a positive number, got 0"),
        ({"loss_weights": {"loss_ce": 1}}, r"unknown name\(s\) \['loss_ce'\]"),
        ({"loss_weights": dict.fromkeys(TERMS, 0)}, "no term that 2 network.* has a weight"),
        ({"num_peers": 1, "loss_weights": {"loss_vcl": 0}}, r"no term that 1 network.*\['loss_vcl'\]"),
        ({"head": {"type": "LatentPredictHead", "predictor": LINEAR, "loss": HEAD["loss"]}}, "LatentPredictHead"),
        ({"head": {**HEAD, "loss": {"type": "CrossEntropyLoss", "loss_weight": 2.0}}}, "weights go into loss_weights"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_bad_batches():
    model = build()
    with pytest.raises(ValueError, match=r"two views of each image, got one of \(4, 3, 16, 16\).*MultiView"):
        model(views()[0], None, mode="loss")
    with pytest.raises(ValueError, match=r"got 3 view\(s\)"):
        model([*views(), views()[0]], None, mode="loss")
    with pytest.raises(ValueError, match="hold 4 and 2 images"):
        model([views()[0], views()[1][:2]], None, mode="loss")
    with pytest.raises(ValueError, match="queue_size=24 is no multiple of the 5 images"):
        model(views(5), None, mode="loss")
    with pytest.raises(ValueError, match=r"model.queue_len=24 .* 16 images .* set model.queue_len=32"):
        model.check_batch_size(16)
    with pytest.raises(ValueError, match=r"2 image\(s\) cannot be run in num_groups=3"):
        build(num_groups=3)(views(2), None, mode="loss")


def test_necks_that_give_something_else():
    model = build()
    model.neck = nn.Identity()
    with pytest.raises(
        ValueError, match=r"Identity must give one embedding an image, \(N, D\), got shape \(4, 64, 4, 4\)"
    ):
        model(views(), None, mode="loss")
    with pytest.raises(
        ValueError, match=r"neck GlobalAveragePooling gives embeddings of 64 dimensions, but feat_dim=16"
    ):
        build(neck={"type": "GlobalAveragePooling"})(views(), None, mode="loss")
