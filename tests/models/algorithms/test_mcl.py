import copy

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmpretrain.structures import DataSample
from testing_helpers import (
    assert_equal_states,
    assert_matches_golden,
    assert_overfits,
    assert_starts_as_the_plain_twin,
    batch,
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

from mmkdprune.models.algorithms import MCL
from mmkdprune.models.losses import MutualContrastiveLoss, kd_loss

TERMS = MCL.loss_names
CONTRASTS = TERMS[1:5]
MEMORY = {"loss": {"type": "mmkdprune.MemoryMutualContrastiveLoss"}, "num_negatives": 20}
BRANCHED = {"num_peers": 4, "shared_stages": 1}
WIDE = {
    "backbone": {"type": "mmkdprune.CifarWideResNet", "depth": 10, "widen_factor": 2},
    "head": {"type": "LinearClsHead", "num_classes": 10, "in_channels": 128},
}


def build(depth=8, **options) -> MCL:
    model = build_model("mmkdprune.MCL", **{**network(depth), **options})
    model.init_weights()
    return model.train()


def build_memory(size=40, **options) -> MCL:
    model = build(**MEMORY, **options)
    model.set_training_labels([index % 10 for index in range(size)])
    return model


def pairs(number=6):
    """Images, two of each class."""
    return torch.randn(number, 3, 16, 16), samples(*(index // 2 for index in range(number)))


def indexed(*indices):
    """Data samples of a training set in which image i has class i % 10."""
    return [DataSample(metainfo={"sample_idx": index}).set_gt_label(index % 10) for index in indices]


def test_terms_are_those_of_the_objective_on_the_models_tensors():
    model = build(loss_weights={"loss_kd": 0.5}, loss={"tau": 0.2}, num_peers=3)
    images, data_samples = pairs()
    same = copy.deepcopy(model)
    logits, pooled = same.forward_networks(images)
    target = torch.tensor([0, 0, 1, 1, 2, 2])
    embeddings = [head(rows) for head, rows in zip(same.projections, pooled, strict=True)]
    expected = {"loss_ce": sum(torch.nn.functional.cross_entropy(rows, target) for rows in logits)}
    expected |= MutualContrastiveLoss(tau=0.2)(embeddings, target)
    expected["loss_kd"] = 0.5 * kd_loss(logits[0], sum(logits) / 3, 3.0)
    for name in ("loss_vcl", "loss_icl"):
        expected[name] = 0.1 * expected[name]
    losses = model(images, data_samples, mode="loss")
    assert set(losses) == set(TERMS)
    torch.testing.assert_close(losses, expected)


@pytest.mark.parametrize(("distilled", "number", "learn"), [("auto", 2, 2), ("auto", 3, 1), ("all", 3, 3)])
def test_who_learns_from_the_ensemble(distilled, number, learn):
    weights = {**dict.fromkeys(CONTRASTS, 0.0), "loss_kd": 1.0}
    model = build(num_peers=number, distilled=distilled, loss_weights=weights)
    images, data_samples = pairs()
    model(images, data_samples, mode="loss")["loss_kd"].backward()
    learning = [
        any(p.grad is not None and p.grad.abs().sum() > 0 for p in net.head.parameters()) for net in model.networks()
    ]
    assert learning == [index < learn for index in range(number)]
    assert len(model.projections) == 0


@pytest.mark.parametrize("options", [{"num_peers": 3}, BRANCHED, MEMORY], ids=["independent", "branched", "memory"])
def test_peer_0_has_the_keys_and_the_initial_weights_of_the_plain_twin(options):
    assert_starts_as_the_plain_twin(lambda: build(**options), {"peers", "projections"})


def test_networks_start_from_different_weights():
    first, second, third = (
        {n: v for n, v in net.named_parameters() if n.split(".")[0] in ("backbone", "head")}
        for net in build(num_peers=3).networks()
    )
    for name, value in first.items():
        if value.ndim > 1:
            assert not torch.equal(value, second[name]), name
            assert not torch.equal(second[name], third[name]), name


def test_branches_share_the_stem_and_start_from_different_weights():
    model = build(**BRANCHED)
    peers = list(model.networks())
    for peer in peers[1:]:
        assert peer.backbone.conv1 is model.backbone.conv1
        assert peer.backbone.layer1 is model.backbone.layer1
        assert peer.backbone.layer2 is not model.backbone.layer2
    weights = [peer.backbone.layer3[0].conv1.weight for peer in peers]
    assert all(not torch.equal(a, b) for index, a in enumerate(weights) for b in weights[:index])
    # A peer alone, run from its own keys, gives the logits it gives in the cohort.
    images, _ = batch()
    model.eval()
    logits, _ = model.forward_networks(images)
    for peer, rows in zip(peers, logits, strict=True):
        torch.testing.assert_close(peer(images, mode="tensor"), rows)
    names = set(model.state_dict())
    for index in (1, 2, 3):
        assert {f"peers.{index}.{name}" for name in names if name.split(".")[0] in ("backbone", "head")} <= names


def test_branches_of_a_network_whose_stages_lie_deeper():
    model = build(
        backbone={"type": "ShuffleNetV2", "widen_factor": 0.5},
        head={"type": "LinearClsHead", "num_classes": 10, "in_channels": 1024},
        shared_stages=2,
    )
    own, other = model.backbone, model.peers["1"].backbone
    assert [own.layers[i] is other.layers[i] for i in range(4)] == [True, False, False, False]
    assert own.conv1 is other.conv1
    images = torch.randn(2, 3, 64, 64)
    logits, _ = model.eval().forward_networks(images)
    for net, rows in zip(model.networks(), logits, strict=True):
        torch.testing.assert_close(net(images, mode="tensor"), rows)


# networks, classifier's input channels
CIFAR = {
    "resnet32": ({"type": "mmkdprune.CifarResNet", "depth": 32}, 64),
    "resnet56": ({"type": "mmkdprune.CifarResNet", "depth": 56}, 64),
    "resnet110": ({"type": "mmkdprune.CifarResNet", "depth": 110}, 256),
    "wrn_16_2": ({"type": "mmkdprune.CifarWideResNet", "depth": 16, "widen_factor": 2}, 128),
    "wrn_40_2": ({"type": "mmkdprune.CifarWideResNet", "depth": 40, "widen_factor": 2}, 128),
    "wrn_28_4": ({"type": "mmkdprune.CifarWideResNet", "depth": 28, "widen_factor": 4}, 256),
    "ShuffleNetV2_05x": ({"type": "mmkdprune.CifarShuffleNetV2", "widen_factor": 0.5, "stem_kernel": 3}, 1024),
    "ShuffleNetV2_1x": ({"type": "mmkdprune.CifarShuffleNetV2", "widen_factor": 1.0, "stem_kernel": 3}, 1024),
    "in_resnet18": ({"type": "ResNet", "depth": 18, "zero_init_residual": False}, 512),
    "in_resnet34": ({"type": "ResNet", "depth": 34, "zero_init_residual": False}, 512),
}
ENTRIES = [name.removeprefix("mcl_") for name in golden("kd_nets") if name.startswith("mcl_") and "hcgnet" not in name]


@pytest.mark.parametrize("entry", ENTRIES)
def test_cohorts_are_those_of_the_authors(entry):
    name, number = entry.rsplit("_x", 1)
    backbone, channels = CIFAR[name]
    imagenet = name.startswith("in_")
    model = build_model(
        "mmkdprune.MCL",
        backbone=backbone,
        neck={"type": "GlobalAveragePooling"},
        head={"type": "LinearClsHead", "num_classes": 10, "in_channels": channels},
        num_peers=int(number),
        shared_stages=0 if number == "2" else 1 + imagenet,
        loss_weights=dict.fromkeys(CONTRASTS, 0.0),
    ).double()
    expected = golden("kd_nets")[f"mcl_{entry}"]
    assert count_parameters(model) == expected["params"]
    set_shape_only_weights(model)
    size = 64 if imagenet else 32
    with torch.no_grad():
        logits, pooled = model.train().forward_networks(det((4, 3, size, size), 0.0137, 0.2))
    atol = 1e-3 if "resnet34" in name else 2e-6  # under these weights it blows rounding errors up
    for rows, features in zip(logits, pooled, strict=True):  # equal weights, so all branches give the same
        assert_matches_golden(rows, expected["logits0"], atol)
        assert_matches_golden(features, expected["emb0"], atol)


@pytest.mark.parametrize("options", [{}, BRANCHED], ids=["independent", "branched"])
def test_one_forward_pass_of_each_network(options):
    model = build(**options)
    seen = []
    for index, net in enumerate(model.networks()):
        net.backbone.layer3.register_forward_pre_hook(lambda module, args, i=index: seen.append((i, args[0].shape[0])))
    model.backbone.conv1.register_forward_pre_hook(lambda module, args: seen.append(("stem", args[0].shape[0])))
    images, data_samples = pairs()
    model(images, data_samples, mode="loss")
    assert sorted(seen, key=str) == [("stem", 6), *((index, 6) for index in range(options.get("num_peers", 2)))]
    seen.clear()
    model.eval()
    model(images, data_samples, mode="predict")
    assert sorted(seen, key=str) == [("stem", 6), (0, 6)]  # the deployable network alone


@pytest.mark.parametrize("options", [{}, BRANCHED, MEMORY], ids=["independent", "branched", "memory"])
def test_all_weights_zero_train_the_plain_network(options):
    ours = trained_state("mmkdprune.MCL", **network(8), **options, loss_weights=dict.fromkeys(TERMS, 0.0))
    assert_equal_states(ours, trained_state("ImageClassifier", **network(8)))


@pytest.mark.parametrize("options", [{}, BRANCHED, {"num_peers": 1}], ids=["independent", "branched", "alone"])
def test_every_parameter_gets_a_gradient_whatever_the_weights(options):
    for zero in [(), *[(name,) for name in TERMS[:5]], CONTRASTS]:
        model = build(**options, loss_weights={"loss_kd": 1.0, **dict.fromkeys(zero, 0.0)})
        sum(model(*pairs(), mode="loss").values()).backward()
        assert all(parameter.grad is not None for parameter in model.parameters()), zero


def test_one_network_alone():
    model = build(num_peers=1)
    assert set(model(*pairs(), mode="loss")) == {"loss_ce", "loss_vcl"}
    assert model.train_only_accuracy(torch.randn(2, 3, 16, 16), torch.tensor([0, 1])) == {}


@pytest.mark.parametrize("options", [{}, BRANCHED], ids=["independent", "branched"])
def test_no_host_synchronisation_in_the_step(options, monkeypatch):
    model = build(**options, loss_weights={"loss_kd": 1.0})
    images, data_samples = pairs()
    forbid_host_synchronisation(monkeypatch)
    sum(model(images, data_samples, mode="loss").values()).backward()


def test_networks_may_differ():
    model = build(peers=[WIDE, {"backbone": {"type": "mmkdprune.CifarResNet", "depth": 20}}])
    assert [head.fc1.in_features for head in model.projections] == [64, 128, 64]
    total = sum(model(*pairs(), mode="loss").values())
    total.backward()
    assert total.isfinite()


def test_accuracies_of_networks_and_ensemble():
    model = build(num_peers=3).eval()
    images, _ = batch()
    target = torch.arange(6)
    scores = model.train_only_accuracy(images, target)
    assert list(scores) == ["peer1/top1", "peer2/top1", "ensemble/top1"]
    with torch.no_grad():
        logits = [net(images) for net in (model, *model.peers.values())]
    assert torch.equal(scores["peer2/top1"], (logits[2].argmax(1) == target).float())
    assert torch.equal(scores["ensemble/top1"], (sum(logits).argmax(1) == target).float())
    assert "ensemble/top1" not in build(evaluate_ensemble=False).train_only_accuracy(images, target)


def test_overfits_a_few_images():
    assert_overfits(build(), steps=40)


def test_equal_networks_have_nothing_to_teach():
    model = build()
    own = {key: value for key, value in model.state_dict().items() if key.split(".")[0] in ("backbone", "head")}
    model.peers["1"].load_state_dict(own)
    model.projections[1].load_state_dict(model.projections[0].state_dict())
    losses = model(*pairs(), mode="loss")
    assert losses["loss_soft_vcl"] == 0
    assert losses["loss_soft_icl"].abs() < 1e-5


# Memory banks


@pytest.mark.parametrize("options", [{}, BRANCHED], ids=["independent", "branched"])
def test_memory_banks_learn_the_embeddings(options):
    model = build_memory(**options)
    assert model.criterion.banks.shape == (options.get("num_peers", 2), 40, 128)
    before = model.criterion.banks.clone()
    losses = model(torch.randn(4, 3, 16, 16), indexed(0, 7, 13, 39), mode="loss")
    assert set(losses) == set(TERMS) - {"loss_kd"}
    changed = (model.criterion.banks != before).any(2).any(0).nonzero().flatten().tolist()
    assert changed == [0, 7, 13, 39]
    torch.testing.assert_close(model.criterion.banks[:, changed].norm(dim=2), torch.ones(len(before), 4))
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_memory_positives_and_negatives_are_drawn_anew_and_reproducibly():
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        model = build_memory()
        model.criterion.register_forward_pre_hook(lambda module, args: drawn.append(args[1:]))
        for _ in range(2):
            model(torch.randn(2, 3, 16, 16), indexed(4, 25), mode="loss")
    assert all(torch.equal(a, b) for a, b in zip(drawn[0] + drawn[1], drawn[2] + drawn[3], strict=True))
    assert not torch.equal(drawn[0][1], drawn[1][1])


def test_memory_banks_are_saved():
    model = build_memory()
    model(torch.randn(2, 3, 16, 16), indexed(4, 25), mode="loss")
    other = build_memory()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.criterion.banks, model.criterion.banks)


def test_memory_needs_labels_and_indices():
    model = build(**MEMORY)
    with pytest.raises(ValueError, match=r"set_training_labels\(labels\).*TrainingLabelsHook"):
        model(torch.randn(2, 3, 16, 16), indexed(4, 25), mode="loss")
    model = build_memory()
    with pytest.raises(ValueError, match=r"no sample_idx.*meta_keys=\('sample_idx'"):
        model(torch.randn(2, 3, 16, 16), samples(0, 1), mode="loss")
    with pytest.raises(ValueError, match="sample index 40 lies outside the 40 images"):
        model(torch.randn(2, 3, 16, 16), indexed(4, 40), mode="loss")
    with pytest.raises(ValueError, match="another class than the training set's labels say"):
        model(torch.randn(1, 3, 16, 16), [indexed(4)[0].set_gt_label(5)], mode="loss")
    model = build(**{**MEMORY, "loss": {**MEMORY["loss"], "num_samples": 30}})
    with pytest.raises(ValueError, match="num_samples=30 images and the training set has 40"):
        model.set_training_labels([0, 1] * 20)


def test_memory_form_overfits_a_few_images():
    model = build_memory(16, loss_weights={"loss_soft_icl": 0.1})
    images, data_samples = torch.randn(16, 3, 16, 16), indexed(*range(16))
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), 0.02, momentum=0.9, nesterov=True))
    for _ in range(40):
        optimizer.update_params(sum(model(images, data_samples, mode="loss").values()))
    predicted = torch.cat([sample.pred_label for sample in model.eval()(images, data_samples, mode="predict")])
    assert (predicted == torch.arange(16) % 10).float().mean() >= 15 / 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_peers": 0}, "num_peers must be 1 or more networks in total, got 0"),
        ({"num_peers": True}, "num_peers must be a whole number or None, got True"),
        ({"peers": []}, r"at least one network beside the deployable one, got \[\]"),
        ({"peers": [{"depth": 20}]}, "peer 1 must be a dict of backbone, neck, head"),
        ({"peers": [{"backbone": WIDE["backbone"]}]}, r"peer 1 .* gives 128 .* takes 64: set head"),
        ({"peers": [{"head": {**network()["head"], "num_classes": 5}}]}, "10 classes and peer 1 .* 5"),
        ({"peers": [{"head": {**network()["head"], "cal_acc": True}}]}, "cal_acc=False"),
        ({"shared_stages": 3}, "shared_stages must be less than the 3 stages of CifarResNet.* got 3"),
        ({"shared_stages": -1}, "0 or more, got -1"),
        ({"shared_stages": 1, "peers": [WIDE]}, "needs networks of one architecture .* other networks in peers"),
        (
            {
                "shared_stages": 1,
                "backbone": {"type": "EfficientNetV2", "arch": "b0"},
                "head": {**WIDE["head"], "in_channels": 1280},
            },
            "whose stages are known, got EfficientNetV2",
        ),
        ({"distilled": "some"}, r"distilled must be one of \('auto', 'all', 'deployable'\), got 'some'"),
        ({"kd_temperature": 0}, "temperature must be a positive number, got 0"),
        ({"loss": {"tau": -1}}, "tau must be a positive number"),
        ({"loss_weights": {"loss_feat": 1}}, r"unknown name\(s\) \['loss_feat'\]"),
        ({**MEMORY, "num_negatives": 0}, "num_negatives must be an integer of 1 or more"),
        ({"train_cfg": {"augments": {"type": "Mixup", "alpha": 0.8}}}, "train_cfg=None"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_a_batch_of_one_has_nothing_to_compare():
    assert build().min_batch_size == 2
    assert build_memory().min_batch_size == build(loss_weights=dict.fromkeys(TERMS, 0.0)).min_batch_size == 1
    with pytest.raises(ValueError, match="holds 1 image"):
        build()(torch.randn(1, 3, 16, 16), samples(0), mode="loss")


def test_labels_beyond_the_head():
    with pytest.raises(ValueError, match=r"outside 0 ... 9, the range of 10 classes: got \[10\]"):
        build()(torch.randn(2, 3, 16, 16), samples(0, 10), mode="loss")
