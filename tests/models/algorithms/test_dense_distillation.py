"""Detectors and segmentors with a teacher: the stock class, the step, and what does not fit."""

import copy

import downstream_models
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.registry import MODELS, DefaultScope

import mmkdprune  # noqa: F401  (stands in for MMCV's operators)

MSE = {"type": "mmkdprune.FeatureMSELoss"}
WISE = {"type": "mmkdprune.ChannelWiseDistillationLoss"}
PEARSON = {"type": "mmkdprune.PearsonDistillationLoss"}
CLASSES = {"type": "mmkdprune.ClassMapDistillationLoss"}
TASKS = {
    "detector": ("mmdet", [{**PEARSON, "at": "neck", "levels": [0, 1]}, {**CLASSES, "at": "logits"}]),
    "faster_rcnn": ("mmdet", [{**PEARSON, "at": "neck"}, {**MSE, "at": "backbone", "levels": [3], "adapter": True}]),
    "segmentor": ("mmseg", [{**WISE, "at": "logits"}, {**MSE, "at": "backbone.layer2", "adapter": True}]),
}


def config_of(name: str, width: int = 4) -> dict:
    """A narrow model of a class."""
    model = copy.deepcopy(getattr(downstream_models, name)())
    model["backbone"] |= {"base_channels": width, "stem_channels": width}
    channels = [width, 2 * width, 4 * width, 8 * width]
    if "neck" in model:
        model["neck"]["in_channels"] = channels
    else:
        model["decode_head"]["in_channels"] = channels[3]
    return model


def build(scope: str, model: dict):
    """Build in a scope, from the same seed."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(ConfigDict(model))


def distilled(scope: str, model: dict, checkpoint: str, losses: list, **teacher):
    """The same with a teacher."""
    kind = "mmkdprune.DenseDistillation"
    return build(
        scope, {"type": kind, "model": model, "teacher": {"checkpoint": checkpoint, **teacher}, "losses": losses}
    )


def batch_of(model, scope: str) -> dict:
    """Two images, normalised."""
    data = downstream_models.ToyScenes(scope)
    return model.data_preprocessor(pseudo_collate([data[0], data[1]]), True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict:
    """Checkpoints of teachers, by model and width, with their configs."""
    files = {}
    for name, (scope, _) in TASKS.items():
        folder = tmp_path_factory.mktemp(name)
        for width in (4, 8):
            torch.manual_seed(width)
            model = build(scope, config_of(name, width))
            torch.save({"state_dict": model.state_dict(), "meta": {}}, folder / f"{width}.pth")
            (folder / f"{width}.py").write_text(f"default_scope = {scope!r}\nmodel = {config_of(name, width)!r}\n")
            files[name, width] = str(folder / f"{width}.pth"), str(folder / f"{width}.py")
    return files


@pytest.mark.parametrize("name", TASKS)
def test_steps_of_a_stock_class(trained, name):
    scope, losses = TASKS[name]
    checkpoint, config = trained[name, 8]
    plain = build(scope, config_of(name))
    model = distilled(scope, config_of(name), checkpoint, losses, config=config)
    assert isinstance(model, type(plain))
    assert type(model).__name__ == type(plain).__name__
    added = {key for key in model.state_dict() if key not in plain.state_dict()}
    assert all(key.startswith("distillation.") and ".adapters." in key for key in added)
    for key, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    model.teacher.load()
    before = {key: value.clone() for key, value in model.teacher.network.state_dict().items()}
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    totals = []
    for _ in range(2):
        optimizer.zero_grad()
        found = model(**batch_of(model, scope), mode="loss")
        own = {key: value for key, value in found.items() if key.startswith("loss_") and key in model.distillation}
        assert len(own) == len(losses)
        loss, _ = model.parse_losses(found)
        loss.backward()
        optimizer.step()
        totals.append(loss.item())
    assert all(torch.isfinite(torch.tensor(totals)))
    assert all(parameter.grad is not None for parameter in model.distillation.parameters())
    for key, value in model.teacher.network.state_dict().items():
        assert torch.equal(before[key], value), key
    assert not any(parameter.requires_grad for parameter in model.teacher.network.parameters())
    assert copy.deepcopy(model).teacher is model.teacher
    model.eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    images = batch_of(model, scope)["inputs"]
    for ours, theirs in zip(model.extract_feat(images), plain.eval().extract_feat(images), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", TASKS)
def test_terms_add_to_the_plain_losses_and_weight_zero_is_the_plain_model(trained, name):
    scope, losses = TASKS[name]
    checkpoint, _ = trained[name, 4]
    plain = build(scope, config_of(name))
    model = distilled(scope, config_of(name), checkpoint, losses)  # the student's own config
    model.teacher.load()
    silent = distilled(scope, config_of(name), checkpoint, [{**entry, "loss_weight": 0.0} for entry in losses])
    assert type(silent) is type(plain)
    results = []
    for network in (plain, model, silent):
        network.train()
        torch.manual_seed(1)
        results.append(network(**batch_of(network, scope), mode="loss"))
    for key, value in results[0].items():
        for other in results[1:]:
            torch.testing.assert_close(other[key], value, rtol=0, atol=0)
    assert results[0].keys() == results[2].keys()
    assert len(results[1]) == len(results[0]) + len(losses)


def test_a_twin_of_the_teacher_has_nothing_to_learn(trained):
    scope, losses = TASKS["segmentor"]
    checkpoint, _ = trained["segmentor", 4]
    model = distilled(scope, config_of("segmentor"), checkpoint, losses)
    model.load_state_dict(torch.load(checkpoint)["state_dict"])
    model.teacher.load()
    found = model.eval()(**batch_of(model, scope), mode="loss")
    assert all(abs(found[key].item()) < 1e-6 for key in model.distillation)


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        (
            "detector",
            {"at": "nock"},
            r"losses\[0\].at='nock': RetinaNet has no 'nock', but .*neck, bbox_head",
        ),
        ("detector", {"at": "backbone.layer9"}, "RetinaNet.backbone has no 'layer9', but conv1"),
        ("detector", {"at": "backbone"}, r"level 0 of 'backbone' is frozen .* levels"),
        ("detector", {"at": "backbone", "levels": [2]}, r"16 channels and the teacher's 32.*adapter=True"),
        ("detector", {"at": "neck", "levels": [5]}, r"levels must be a list of numbers from 0 to 4, got \[5\]"),
        ("faster_rcnn", {"at": "roi_head"}, "only maps of backbone, neck and dense heads"),
        ("segmentor", {}, "needs type and at"),
    ],
)
def test_entries_that_do_not_fit(trained, name, entry, message):
    checkpoint, config = trained[name, 8]
    with pytest.raises(ValueError, match=message):
        distilled(TASKS[name][0], config_of(name), checkpoint, [{**MSE, **entry}], config=config)


def test_other_networks(trained):
    checkpoint, config = trained["segmentor", 8]
    losses = [{**WISE, "at": "logits"}]
    other = config_of("segmentor")
    other["decode_head"]["num_classes"] = 5
    with pytest.raises(ValueError, match=r"has 3 classes and the student \(ResNetV1c-18\) 5"):
        distilled("mmseg", other, checkpoint, losses, config=config)
    strides = config_of("segmentor")
    strides["backbone"] |= {"strides": (1, 2, 2, 2), "dilations": (1, 1, 1, 1)}
    with pytest.raises(ValueError, match=r"losses\[0\], at='logits', level 0: .*the same stride"):
        distilled("mmseg", strides, checkpoint, losses, config=config)
    model = distilled("mmseg", config_of("segmentor"), checkpoint, losses)
    with pytest.raises(ValueError, match=r"Give the checkpoint of a whole EncoderDecoder|is not a EncoderDecoder"):
        model.teacher.load()
    with pytest.raises(ValueError, match="_delete_=True, type="):
        build("mmseg", {**config_of("segmentor"), "type": "mmkdprune.DenseDistillation"})
