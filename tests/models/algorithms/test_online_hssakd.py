import copy

import pytest
import torch
from testing_helpers import (
    assert_equal_states,
    assert_overfits,
    assert_starts_as_the_plain_twin,
    batch,
    build_model,
    forbid_host_synchronisation,
    network,
    samples,
    trained_state,
)

from mmkdprune.models.algorithms import OnlineHSSAKD
from mmkdprune.models.losses import OnlineHSSAKDLoss
from mmkdprune.models.utils import rotate4

TERMS = OnlineHSSAKD.loss_names
MOBILE = {
    "backbone": {"type": "mmkdprune.CifarMobileNetV2"},
    "head": {"type": "LinearClsHead", "num_classes": 10, "in_channels": 1280},
}
WIDE = {
    "backbone": {"type": "mmkdprune.CifarWideResNet", "depth": 10, "widen_factor": 1},
    "head": {"type": "LinearClsHead", "num_classes": 10, "in_channels": 64},
}


def build(depth=8, **options) -> OnlineHSSAKD:
    model = build_model("mmkdprune.OnlineHSSAKD", **{**network(depth), **options})
    model.init_weights()
    return model.train()


def test_terms_are_those_of_the_objective_on_the_models_tensors():
    model = build(loss_weights={"loss_kd": 0.5}, loss={"temperature": 2.0})
    images, data_samples = batch()
    outputs = [net.forward_joint(rotate4(images)) for net in copy.deepcopy(model).networks()]
    logits, joint_logits = zip(*outputs, strict=True)
    expected = OnlineHSSAKDLoss(2.0)(logits, joint_logits, torch.arange(6))
    expected["loss_kd"] = 0.5 * expected["loss_kd"]
    losses = model(images, data_samples, mode="loss")
    assert list(losses) == list(TERMS)
    torch.testing.assert_close(losses, expected)


def test_peer_0_has_the_keys_and_the_initial_weights_of_the_plain_twin():
    assert_starts_as_the_plain_twin(lambda: build(num_peers=3), {"branches", "peers"})


def test_networks_start_from_different_weights():
    first, second, third = (
        {n: v for n, v in net.named_parameters() if "peers." not in n} for net in build(num_peers=3).networks()
    )
    for name, value in first.items():
        if value.ndim > 1:
            assert not torch.equal(value, second[name]), name
            assert not torch.equal(second[name], third[name]), name


def test_one_forward_pass_of_each_network():
    model = build()
    seen = []
    for net in model.networks():
        net.backbone.conv1.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[0]))
    images, data_samples = batch()
    model(images, data_samples, mode="loss")
    assert seen == [24, 24]
    seen.clear()
    model.eval()
    model(images, data_samples, mode="predict")
    assert seen == [6]  # the deployable network alone


def test_equal_networks_have_nothing_to_teach():
    model = build()
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("peers.")}
    model.peers["1"].load_state_dict(state)
    losses = model(*batch(), mode="loss")
    assert losses["loss_kd"] == losses["loss_joint_kd"] == 0


def test_all_weights_zero_train_the_plain_network():
    ours = trained_state("mmkdprune.OnlineHSSAKD", **network(8), loss_weights=dict.fromkeys(TERMS, 0.0))
    assert_equal_states(ours, trained_state("ImageClassifier", **network(8)))


def test_every_parameter_gets_a_gradient_whatever_the_weights():
    for zero in [(), *[(name,) for name in TERMS], ("loss_joint_ce", "loss_joint_kd"), ("loss_kd", "loss_joint_kd")]:
        model = build(loss_weights=dict.fromkeys(zero, 0.0))
        sum(model(*batch(), mode="loss").values()).backward()
        assert all(parameter.grad is not None for parameter in model.parameters()), zero


def test_no_host_synchronisation_in_the_step(monkeypatch):
    model = build()
    images, data_samples = batch()
    forbid_host_synchronisation(monkeypatch)
    sum(model(images, data_samples, mode="loss").values()).backward()


def test_networks_may_differ():
    model = build(peers=[WIDE, {"backbone": {"type": "mmkdprune.CifarResNet", "depth": 20}}])
    assert [type(net.backbone).__name__ for net in model.networks()] == [
        "CifarResNet",
        "CifarWideResNet",
        "CifarResNet",
    ]
    total = sum(model(*batch(), mode="loss").values())
    total.backward()
    assert total.isfinite()


def test_accuracies_of_networks_and_branches_have_names_of_their_own():
    model = build().eval()
    images, _ = batch()
    target = torch.arange(6)
    scores = model.train_only_accuracy(images, target)
    branches = [f"branch{index}/{kind}_top1" for index in (1, 2, 3) for kind in ("joint", "class")]
    assert list(scores) == [*branches, "peer1/top1", *(f"peer1/{name}" for name in branches)]
    with torch.no_grad():
        peer = model.peers["1"]
        assert torch.equal(scores["peer1/top1"], (peer(images).argmax(1) == target).float())
    assert set(build(evaluate_branches=False).train_only_accuracy(images, target)) == {"peer1/top1"}


def test_overfits_a_few_images():
    assert_overfits(build(), steps=40)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_peers": 1}, "num_peers must be 2 or more networks in total, got 1"),
        ({"num_peers": "two"}, "got 'two'"),
        ({"peers": []}, r"at least one network beside the deployable one, got \[\]"),
        ({"num_peers": 2, "peers": [WIDE, WIDE]}, "num_peers=2 .* peers lists 2 others"),
        ({"peers": [{"depth": 20}]}, "peer 1 must be a dict of backbone, neck, head"),
        ({"peers": [MOBILE]}, r"peer 0 \(CifarResNet-8\) has 3 stages and peer 1 \(CifarMobileNetV2\) 4"),
        (
            {"peers": [{"backbone": {**WIDE["backbone"], "widen_factor": 2}}]},
            r"peer 1 .* gives 128 .* takes 64: set head",
        ),
        ({"peers": [{"head": {**WIDE["head"], "num_classes": 5}}]}, "10 classes and peer 1 .* 5"),
        ({"peers": [{"head": {**WIDE["head"], "cal_acc": True}}]}, "cal_acc=False"),
        ({"loss": {"temperature": -1}}, "temperature must be a positive number"),
        ({"loss_weights": {"loss_feat": 1}}, r"unknown name\(s\) \['loss_feat'\]"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


@pytest.mark.parametrize(
    ("images", "data_samples", "message"),
    [
        (torch.randn(2, 3, 16, 24), samples(0, 1), "square images"),
        (torch.randn(2, 3, 16, 16), samples(0, 10), r"outside 0 ... 9"),
    ],
)
def test_bad_batches(images, data_samples, message):
    with pytest.raises(ValueError, match=message):
        build()(images, data_samples, mode="loss")
