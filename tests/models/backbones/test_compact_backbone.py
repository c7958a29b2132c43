"""The compact backbone in configs: built, loaded, frozen, trained, distilled into."""

import copy

import pytest
import torch
from compaction_nets import SIZE, build, classifier, count, prune
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from testing_helpers import batch, build_model, network

from mmkdprune.models.backbones import CifarResNet
from mmkdprune.pruning import PlanError, compact, load_plan

DENSE = {"type": "mmkdprune.CifarResNet", "depth": 20}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A compact classifier, and its plan and weights as files."""
    folder = tmp_path_factory.mktemp("compact")
    model = classifier("cifar_resnet")
    prune(model)
    small, plan = compact(model, (3, SIZE, SIZE))
    (folder / "plan.json").write_text(plan.dumps())
    torch.save({"state_dict": small.state_dict()}, folder / "weights.pth")
    return small, str(folder / "plan.json"), str(folder / "weights.pth")


def settings(files, **changes):
    _, plan, weights = files
    init_cfg = {"type": "Pretrained", "checkpoint": weights, "prefix": "backbone."}
    return {
        "type": "mmkdprune.CompactBackbone", "backbone": {**DENSE, **changes}, "plan": plan, "init_cfg": init_cfg
    }  # fmt: skip


def test_is_the_original_class_with_its_weights(files):
    backbone = build(settings(files))
    assert type(backbone) is CifarResNet
    backbone.init_weights()
    backbone.eval()
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        assert torch.equal(backbone(images)[-1], files[0].backbone(images)[-1])
    assert list(backbone.state_dict()) == list(build(DENSE).state_dict())
    assert len(backbone.plan.kept("layer1.0.conv1")) == backbone.layer1[0].conv1.out_channels == 10
    assert backbone.feat_dim == files[0].fc.in_features


def test_settings_without_parameters_are_free(files):
    backbone = build(settings(files, out_indices=(0, 1, 2), frozen_stages=1, norm_eval=True, with_cp=True))
    backbone.init_weights()
    backbone.train()
    assert not any(parameter.requires_grad for parameter in backbone.layer1.parameters())
    assert not backbone.layer2[0].bn1.training
    outputs = backbone(torch.randn(2, 3, SIZE, SIZE))
    assert [value.shape[1] for value in outputs] == [10, 20, 39]
    outputs[-1].sum().backward()
    assert backbone.layer3[0].conv1.weight.grad is not None


def test_inherited_settings_stay_where_they_are(files):
    """Over a config that has a dense backbone: the type moves, all else is a difference."""
    _, plan, weights = files
    inherited = {**DENSE, "frozen_stages": 1, "init_cfg": {"type": "Pretrained", "checkpoint": "other.pth"}}
    changes = {
        "type": "mmkdprune.CompactBackbone", "backbone": DENSE["type"], "plan": plan,
        "init_cfg": {"checkpoint": weights, "prefix": "backbone."},
    }  # fmt: skip
    merged = Config({"backbone": inherited})
    merged.merge_from_dict({"backbone": changes})
    backbone, nested = build(merged.backbone.to_dict()), build(settings(files, frozen_stages=1))
    for one in (backbone, nested):
        one.init_weights()
    other = nested.state_dict()
    assert all(torch.equal(value, other[key]) for key, value in backbone.state_dict().items())
    assert not any(parameter.requires_grad for parameter in backbone.layer1.parameters())


def test_the_plan_of_a_checkpoint_that_holds_it(files, tmp_path):
    small, plan, _ = files
    meta = {"model": {"backbone": {"plan": load_plan(plan).to_dict()}}}
    path = tmp_path / "compact.pth"
    torch.save({"meta": meta, "state_dict": small.state_dict()}, path)
    init_cfg = {"type": "Pretrained", "checkpoint": str(path), "prefix": "backbone."}
    backbone = build({"type": "mmkdprune.CompactBackbone", "backbone": DENSE, "init_cfg": init_cfg})
    backbone.init_weights()
    assert torch.equal(backbone.conv1.weight, small.backbone.conv1.weight)


def test_mixed_or_missing_settings_are_refused(files):
    with pytest.raises(ValueError, match=r"got depth beside backbone, a dict: .*backbone='mmkdprune.CifarResNet'"):
        build({**settings(files), "depth": 20})
    without = settings(files)
    del without["plan"], without["init_cfg"]
    with pytest.raises(ValueError, match="CompactBackbone needs a plan"):
        build(without)


def test_what_does_not_fit_is_refused(files):
    with pytest.raises(PlanError, match="another architecture than this CifarResNet: some layers"):
        build(settings(files, depth=56))
    loads = settings(files, init_cfg={"type": "Pretrained", "checkpoint": "dense.pth"})
    with pytest.raises(ValueError, match="asks for weights of the dense network"):
        build(loads)
    with pytest.raises(FileNotFoundError, match="there is no plan"):
        build({**settings(files), "plan": "nowhere.json"})


def test_a_compact_backbone_can_be_pruned_again(files):
    torch.manual_seed(0)
    backbone = build(settings(files))
    model = type(files[0])(backbone, SIZE).eval()
    prune(model, rate=0.3)
    smaller, plan = compact(model, (3, SIZE, SIZE))
    assert count(smaller) < count(model)
    once = settings(files)
    once.pop("init_cfg")
    twice = build({"type": "mmkdprune.CompactBackbone", "backbone": once, "plan": plan.to_dict()})
    twice.load_state_dict(smaller.backbone.state_dict(), strict=True)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("ImageClassifier", {}),
        ("mmkdprune.MixSKD", {}),
        ("mmkdprune.OnlineHSSAKD", {"num_peers": 2}),
    ],
)
def test_trains_with_the_classifiers_config_and_with_methods(files, kind, options):
    torch.manual_seed(0)
    parts = network(20, 10)
    parts["backbone"] = settings(files)
    parts["head"]["in_channels"] = 39
    model = build_model(kind, **copy.deepcopy(parts), **options)
    model.init_weights()
    before = {name: value.clone() for name, value in model.backbone.named_parameters()}
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))
    images, samples = batch(number=6)
    losses = model.train_step({"inputs": list(images), "data_samples": samples}, optimizer)
    assert all(torch.isfinite(value).all() for value in losses.values())
    assert all(not torch.equal(value, before[name]) for name, value in model.backbone.named_parameters())
    if hasattr(model, "branches"):
        assert count(model.branches) < count(build_model(kind, **network(20, 10), **options).branches)


def test_a_backbone_that_loads_nothing_itself_is_named(files, monkeypatch):
    from mmkdprune.models.backbones import compact_backbone

    monkeypatch.setattr(compact_backbone, "BaseModule", int)
    with pytest.raises(ValueError, match="is no BaseModule and ignores it"):
        build(settings(files))
