"""Whole detectors and segmentors, and the compact backbone in their configs."""

import copy

import pytest
import torch
from compaction_nets import classifier, count, prune, randomise
from downstream_models import deeplab, detector, faster_rcnn, segmentor
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope

from mmkdprune.deploy.compact_folder import PrunedNetwork, compact_network
from mmkdprune.pruning import compact
from mmkdprune.pruning.forward import run_deployable

SIZE = 64
MODELS_OF = {"retinanet": ("mmdet", detector), "faster-rcnn": ("mmdet", faster_rcnn)}
MODELS_OF |= {"fcn": ("mmseg", segmentor), "deeplabv3": ("mmseg", deeplab)}


def build(package, settings):
    pytest.importorskip(package)
    pytest.importorskip(f"{package}.models")
    with DefaultScope.overwrite_default_scope(package):
        return MODELS.build(ConfigDict(copy.deepcopy(settings)))


def maps(model, images):
    with torch.no_grad():
        outputs = run_deployable(model, images)
    return list(outputs)


def predictions(model, images):
    """Boxes and scores of a detector's first image."""
    from mmdet.structures import DetDataSample

    shape = tuple(images.shape[2:])
    meta = {"img_shape": shape, "pad_shape": shape, "batch_input_shape": shape, "scale_factor": (1.0, 1.0)}
    with torch.no_grad():
        (sample,) = model(images, [DetDataSample(metainfo=meta)], mode="predict")
    found = sample.pred_instances
    assert len(found)
    return torch.cat((found.bboxes, found.scores[:, None]), dim=1)


@pytest.mark.parametrize("coupling", ["independent", "group"])
@pytest.mark.parametrize("name", MODELS_OF)
def test_whole_models(name, coupling):
    package, make = MODELS_OF[name]
    torch.manual_seed(0)
    model = randomise(build(package, make()))
    for module in model.modules():
        module.training = False
    prune(model, coupling)
    result = compact_network(PrunedNetwork(model, make(), package, (3, SIZE, SIZE), "x.pth"))
    assert result.plan.check["max_relative_error"] < 1e-5
    assert count(result.network) < count(model)
    rebuilt = build(package, result.model)
    rebuilt.load_state_dict(result.network.state_dict(), strict=True)
    for module in rebuilt.modules():
        module.training = False
    images = torch.randn(1, 3, SIZE, SIZE)
    for one, other in zip(maps(model, images), maps(rebuilt, images), strict=True):
        assert ((one - other).abs().max() / one.abs().max()).item() < 1e-5
    assert type(rebuilt.backbone) is type(model.backbone)
    if name == "faster-rcnn":
        torch.testing.assert_close(predictions(model, images), predictions(rebuilt, images), rtol=1e-3, atol=1e-3)
    if coupling == "group":
        assert not result.plan.left
        widths = [39, 77, 154, 308]
        if package == "mmdet":
            assert result.model["neck"]["in_channels"] == widths
        else:
            assert result.model["decode_head"]["in_channels"] == widths[3]
    if package == "mmdet":  # frozen as the config says
        rebuilt.train()
        assert not any(parameter.requires_grad for parameter in rebuilt.backbone.layer1.parameters())
        assert not rebuilt.backbone.bn1.training


@pytest.mark.parametrize("package", ["mmdet", "mmseg"])
def test_a_classifiers_backbone_in_a_detector_and_a_segmentor(package, tmp_path):
    model = classifier("resnet18", out_indices=(0, 1, 2, 3))
    prune(model)
    small, plan = compact(model, (3, SIZE, SIZE))
    plan_file = tmp_path / "plan.json"
    plan_file.write_text(plan.dumps())
    weights = tmp_path / "compact.pth"
    torch.save({"state_dict": small.state_dict()}, weights)
    settings = detector() if package == "mmdet" else segmentor()
    settings["backbone"] = {
        "type": "mmkdprune.CompactBackbone",
        "backbone": {
            "type": "ResNet",
            "depth": 18,
            "base_channels": 16,
            "stem_channels": 16,
            "frozen_stages": 1,
            "norm_cfg": {"type": "BN"},
            "norm_eval": True,
        },
        "plan": str(plan_file),
        "init_cfg": {"type": "Pretrained", "checkpoint": str(weights), "prefix": "backbone."},
    }
    widths = [stage[-1].out_channels for stage in (getattr(small.backbone, f"layer{i}") for i in range(1, 5))]
    if package == "mmdet":
        settings["neck"]["in_channels"] = widths
    else:
        settings["decode_head"]["in_channels"] = widths[3]
    model = build(package, settings)
    model.init_weights()
    assert type(model.backbone).__module__.startswith(package)
    images = torch.randn(1, 3, SIZE, SIZE)
    for network in (model.backbone, small.backbone):
        for module in network.modules():
            module.training = False
    with torch.no_grad():
        for one, other in zip(model.backbone(images), small.backbone(images), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    maps(model, images)
