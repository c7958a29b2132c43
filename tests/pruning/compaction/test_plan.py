"""The plan: JSON and back, and every way in which it may not fit."""

import copy
import json

import pytest
import torch
from compaction_nets import SIZE, classifier, prune

from mmkdprune.checkpoint.loading import CorruptCheckpointError
from mmkdprune.pruning import PlanError, apply_plan, compact, load_plan
from mmkdprune.pruning.compaction.plan import Plan, fingerprint


@pytest.fixture(scope="module")
def compacted():
    model = classifier("cifar_resnet")
    prune(model)
    return (model, *compact(model, (3, SIZE, SIZE)))


def test_the_file_rebuilds_the_network(compacted, tmp_path):
    _, small, plan = compacted
    path = tmp_path / "plan.json"
    path.write_text(plan.dumps())
    assert json.loads(path.read_text())["layers"]["fc"] == {"in": plan.layers["fc"]["in"]}
    read = load_plan(path)
    assert read == plan == load_plan(json.loads(path.read_text())) == load_plan(plan)
    rebuilt = apply_plan(classifier("cifar_resnet", seed=9), read).eval()
    rebuilt.load_state_dict(small.state_dict(), strict=True)
    images = torch.randn(2, 3, SIZE, SIZE)
    assert torch.equal(rebuilt(images), small(images))


def test_a_part_has_a_plan_of_its_own(compacted):
    model, small, plan = compacted
    part = plan.part("backbone")
    assert part.architectures == {"": fingerprint(model.backbone)}
    backbone = apply_plan(classifier("cifar_resnet", seed=9).backbone, part)
    backbone.load_state_dict(small.backbone.state_dict(), strict=True)
    with pytest.raises(PlanError, match="with backbone, fc, not with a neck"):
        plan.part("neck")


def test_the_file_is_for_people(compacted):
    lines = compacted[2].dumps().splitlines()
    assert sum(line.lstrip().startswith('"backbone.layer1.0.conv1"') for line in lines) == 1
    assert max(map(len, lines)) < 1000


def tampered(change):
    def make(content):
        change(content)
        return content

    return make


def reseal(content):
    """As someone would who knows about the checksum."""
    body = {key: value for key, value in content.items() if key != "checksum"}
    from mmkdprune.pruning.compaction.plan import _checksum

    return {**body, "checksum": _checksum(body)}


def kept(content, name="backbone.layer1.0.conv1"):
    return content["layers"][name]["out"]["kept"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plan: {}, "no compaction plan"),
        (lambda plan: {**plan, "version": 2}, "has version 2, this package reads 1"),
        (tampered(lambda plan: kept(plan).pop()), "changed after it was written"),
        (tampered(lambda plan: plan.pop("checksum")), "changed after it was written"),
        (
            lambda plan: reseal(tampered(lambda p: kept(p).append(16))(plan)),
            r"layer1\.0\.conv1, out: channels must asc",
        ),
        (lambda plan: reseal(tampered(lambda p: kept(p).reverse())(plan)), "must ascend from 0 to 15"),
        (lambda plan: reseal(tampered(lambda p: kept(p).clear())(plan)), "expected a list of the channels that stay"),
        (lambda plan: reseal(tampered(lambda p: kept(p).insert(0, "a"))(plan)), "channels are whole numbers"),
    ],
)
def test_a_changed_plan_is_refused(compacted, change, message):
    content = copy.deepcopy(compacted[2].to_dict())
    with pytest.raises(PlanError, match=message):
        load_plan(change(content))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: classifier("resnet18"), r"this Classifier: backbone\.conv1 has 16 out channels|has no layer|has \d+"),
        (lambda: classifier("cifar_resnet", depth=32), "some layers have other names or shapes"),
        (lambda: classifier("cifar_resnet", depth=8), r"it has no layer backbone\.layer1\.1\.conv1"),
        (lambda: classifier("cifar_resnet", depth="8x4"), r"backbone\.conv1 has 32 out channels, the plan wants 16"),
    ],
)
def test_another_architecture_is_refused(compacted, other, message):
    network = other()
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(PlanError, match=message):
        apply_plan(network, compacted[2])
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_files_that_are_no_plan(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no plan .*nowhere\.json"):
        load_plan(tmp_path / "nowhere.json")
    text = tmp_path / "plan.json"
    text.write_text("{")
    with pytest.raises(PlanError, match="is no JSON file"):
        load_plan(text)
    weights = tmp_path / "weights.pth"
    torch.save({"state_dict": {}, "meta": {}}, weights)
    with pytest.raises(PlanError, match="holds no plan"):
        load_plan(weights)
    torch.save({"meta": {"model": {"backbone": "ResNet"}}}, weights)
    with pytest.raises(PlanError, match="holds no plan"):
        load_plan(weights)
    torch.save({"meta": Plan}, weights)
    with pytest.raises(PlanError, match=r"no plan can be read: .*weights\.pth is not loaded"):
        load_plan(weights)
    weights.write_bytes(b"PK cut")
    with pytest.raises(CorruptCheckpointError, match=r"weights\.pth .*damaged"):
        load_plan(weights)


@pytest.mark.parametrize(
    "field", ["layers", "architectures", "widths", "left", "check", "network", "package", "divisor"]
)
@pytest.mark.parametrize("value", [None, [1], 3.5, {"conv": 3}, {3: {}}])
def test_a_forged_plan_is_refused_by_field(compacted, field, value):
    """Whoever forges a plan can compute its checksum."""
    if field == "check" and value == {"conv": 3}:
        return
    content = {**copy.deepcopy(compacted[2].to_dict()), field: value}
    with pytest.raises(PlanError, match=f"plan, {field}"):
        load_plan(reseal(content))
    content.pop(field)
    with pytest.raises(PlanError, match=f"plan, {field}: expected a .*, got nothing"):
        load_plan(reseal(content))


def test_plans_compare_by_content():
    first = Plan({"conv": {"out": {"of": 4, "kept": [0, 1]}}}, {"": "a"})
    assert first == Plan.from_dict(json.loads(json.dumps(first.to_dict())))
