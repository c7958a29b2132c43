"""Every backbone with native stages trains with every method that has branches, or compares pooled features."""

import json
import math
import re

import distillable_backbones as TABLE
import pytest
import torch
from branch_nets import NETS, classifier_config
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from testing_helpers import assert_equal_states, build_model, samples
from torch import nn

from mmkdprune.models.algorithms import HSAKD, MCL

CLASSES = 10
CHANCE, JOINT_CHANCE = math.log(CLASSES), math.log(4 * CLASSES)
METHODS = {
    "MixSKD": ({}, {"loss_ce": 4 * CHANCE, "loss_mix_ce": 4 * CHANCE, "loss_teacher_ce": 2 * CHANCE}),
    "HSAKD": ({"phase": "teacher"}, {"loss_ce": CHANCE, "loss_joint_ce": 4 * JOINT_CHANCE}),
    "MCL": ({}, {"loss_ce": 2 * CHANCE}),
}
DEPLOYABLE = ("backbone", "neck", "head")


def built(type_name: str, name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    model = build_model(type_name, **classifier_config(name), **options)
    model.init_weights()
    return model.train()


def pairs(name: str, seed: int = 0):
    size = NETS[name][1]
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(seed)), samples(0, 0, 1, 1)


@pytest.mark.parametrize("name", NETS)
def test_trains_with_every_method(name):
    plain = built("ImageClassifier", name)
    for method, (options, expected) in METHODS.items():
        model = built(f"mmkdprune.{method}", name, **options)
        state = model.state_dict()
        assert [key for key in state if key.split(".")[0] in DEPLOYABLE] == list(plain.state_dict())
        assert all(torch.equal(value, state[key]) for key, value in plain.state_dict().items())
        losses = model(*pairs(name), mode="loss")
        for term, chance in expected.items():
            assert losses[term].item() == pytest.approx(chance, rel=0.35), (method, term)
        sum(losses.values()).backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        torch.optim.SGD(model.parameters(), 0.01).step()
        assert all(torch.isfinite(value) for value in model(*pairs(name, 1), mode="loss").values())
        with torch.no_grad():
            assert model.eval()(pairs(name)[0]).shape == (4, CLASSES)


def test_student_and_teacher_may_be_of_different_families():
    teacher = {key: value for key, value in classifier_config("swin").items() if key != "init_cfg"}
    model = build_model(
        "mmkdprune.HSAKD", **classifier_config("mobilenet v2"), teacher={**teacher, "checkpoint": "unused"}
    )
    model.teacher.is_loaded = True  # random weights are as good as others here
    model.init_weights()
    losses = model(torch.randn(2, 3, 64, 64), samples(0, 1), mode="loss")
    sum(losses.values()).backward()
    assert set(losses) == {"loss_ce", "loss_kd", "loss_joint_kd"}
    assert all(torch.isfinite(value) for value in losses.values())


@pytest.mark.parametrize("method", ["OnlineHSSAKD", "LayerwiseMCL"])
@pytest.mark.parametrize("name", ["convnext", "swin", "densenet"])
def test_cohorts_with_branches(method, name):
    model = built(f"mmkdprune.{method}", name)
    losses = model(*pairs(name), mode="loss")
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert [key for key in model.state_dict() if key.split(".")[0] in DEPLOYABLE] == list(
        built("ImageClassifier", name).state_dict()
    )


@pytest.mark.parametrize("name", ["convnext", "hrnet", "vgg, classifier", "swin, positions", "densenet"])
def test_networks_that_share_stages(name):
    """What a branched network computes is what it would compute alone, with the shared stages as its own."""
    model = built("mmkdprune.MCL", name, num_peers=3, shared_stages=2)
    losses = model(*pairs(name), mode="loss")
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.eval()
    with torch.no_grad():
        logits, pooled = model.forward_networks(pairs(name)[0])
        for network, rows in zip(model.networks(), logits, strict=True):
            assert torch.equal(rows, network.deployable_logits(pairs(name)[0]))
    assert len({feats.shape for feats in pooled}) == 1


@pytest.mark.parametrize("name", ["vgg, classifier", "convnext"])
def test_all_weights_zero_is_the_plain_twin(name):
    states = []
    for kind, options in (
        ("ImageClassifier", {}),
        ("mmkdprune.MCL", {"loss_weights": dict.fromkeys(MCL.loss_names, 0)}),
    ):
        model = built(kind, name, **options)
        optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), 0.1, momentum=0.9))
        for step in range(2):
            optimizer.update_params(sum(model(*pairs(name, step), mode="loss").values()))
        states.append(model.state_dict())
    assert_equal_states(*states)


def test_the_networks_of_a_cohort_follow_the_init_cfg_of_the_model():
    """A Swin's own layers have none, and a peer or a branch with PyTorch's default would be another network."""
    model = built("mmkdprune.MCL", "swin")
    online = built("mmkdprune.OnlineHSSAKD", "swin")
    weights = [
        model.peers["1"].backbone.stages[3].blocks[0].ffn.layers[1].weight,
        online.branches[0].stages[2].blocks[0].ffn.layers[1].weight,
        online.peers["1"].branches[0].fc.weight,
    ]
    for weight in weights:
        assert weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_hidden_layers_of_a_head_are_embedded():
    model = built("mmkdprune.MCL", "mobilenet v3 small")
    assert model.projections[0].fc1.in_features == 24


def test_documented_backbone_of_ones_own():
    *_, example = re.findall(r"```python\n(.*?)```", TABLE.PAGE.read_text(), re.DOTALL)
    names: dict = {}
    exec(example, names)
    head = {"type": "LinearClsHead", "num_classes": CLASSES, "in_channels": 16}
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        neck = {"type": "GlobalAveragePooling"}
        model = HSAKD(names["TwoStages"](), neck, head, phase="teacher", branch_type="stage_copy")
    model.init_weights()
    losses = model(torch.randn(2, 3, 16, 16), samples(0, 1), mode="loss")
    sum(losses.values()).backward()
    assert len(model.branches) == 2
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_documented_config():
    example, *_ = re.findall(r"```python\n(.*?)```", TABLE.PAGE.read_text(), re.DOTALL)
    config = Config.fromstring(example, ".py").model.to_dict()
    config["backbone"] |= {"arch": "atto"}
    config["head"] |= {"in_channels": 320, "num_classes": CLASSES}
    model = build_model(config.pop("type"), **config)
    assert len(model.branches) == 3
    assert model.branches[0].norm is not None


def test_documented_table_is_up_to_date():
    record = json.loads(TABLE.RESULTS.read_text())
    page = TABLE.PAGE.read_text()
    assert [row["backbone"] for row in record["rows"]] == list(TABLE.BACKBONES)
    assert TABLE.page_with(page, record["rows"]) == page


@pytest.mark.parametrize(
    "title", ["VGG-11", "MobileNetV2", "ConvNeXt-tiny", "Swin-tiny", "EfficientNetV2-S", "ViT-S/16"]
)
def test_documented_splits_are_those_of_the_code(title):
    rows = {row["backbone"]: row for row in json.loads(TABLE.RESULTS.read_text())["rows"]}
    split = TABLE.describe(TABLE.built(title))
    assert {key: rows[title][key] for key in split} == json.loads(json.dumps(split))
