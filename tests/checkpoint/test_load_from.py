"""What a runner says of the file that it loads."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.runner import Runner
from testing_helpers import build_model, network

from mmkdprune.checkpoint.keys import KeyReport, PretrainedKeysError
from mmkdprune.checkpoint.load_from import partial_match
from mmkdprune.engine.hooks import CheckResumeHook, FilterPruningHook
from mmkdprune.engine.resume import ResumeError


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(0)
    return build_model("ImageClassifier", **network(8)).state_dict()


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Load a file as a runner does; return the model and what was logged."""

    def load_from(content, model=None):
        lines: list = []
        torch.save(content, tmp_path / "file.pth")
        model = model or build_model("ImageClassifier", **network(8))
        log = lambda text, *args, **kwargs: lines.append((kwargs.get("level"), text))  # noqa: E731
        monkeypatch.setattr("mmengine.logging.print_log", log)
        runner = SimpleNamespace(
            model=model, call_hook=lambda *a, **k: None, logger=SimpleNamespace(info=lambda _: None)
        )
        Runner.load_checkpoint(runner, str(tmp_path / "file.pth"))
        (line,) = [line for line in lines if " loaded from " in line[1]]
        return model, *line

    return load_from


def backbone_of(state, prefix=""):
    return {prefix + key[9:]: value for key, value in state.items() if key.startswith("backbone.")}


def test_a_whole_match_is_one_line(load, source):
    for state in (source, {f"module.{key}": value for key, value in source.items()}):  # DDP's layout
        model, level, line = load({"state_dict": state})
        assert all(torch.equal(value, source[key]) for key, value in model.state_dict().items())
        assert (level, line.split(": ")[1]) == (20, "56 keys matched, 0 missing, 0 unexpected")


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (
            lambda state: backbone_of(state) | {"fc.weight": torch.zeros(2, 2)},  # torchvision
            "With no prefix, 54 of the 54 keys of model.backbone would match: set load_from=None and "
            "model.backbone.init_cfg=dict(type='Pretrained', checkpoint='{file}').",
        ),
        (
            lambda state: {"state_dict": backbone_of(state, "module.encoder_q.")},  # MoCo
            "With prefix='module.encoder_q.', 54 of the 54 keys of model.backbone would match: set load_from=None and "
            "model.backbone.init_cfg=dict(type='Pretrained', checkpoint='{file}', prefix='module.encoder_q.').",
        ),
        (
            lambda state: {"state_dict": {f"architecture.{key}": value for key, value in state.items()}},  # MMRazor
            "With prefix='architecture.', 56 of the 56 keys of model would match: set load_from=None and "
            "model.init_cfg=dict(type='Pretrained', checkpoint='{file}', prefix='architecture.').",
        ),
        (
            lambda state: {"model": state, "epoch": 3},  # timm
            "under 'model': write them to a file of their own with python -c \"import torch; torch.save(dict("
            "state_dict=torch.load('{file}', weights_only=True)['model']), '{stem}_weights.pth')\". Then load_from="
            "'{stem}_weights.pth' matches 56 of 56 keys.",
        ),
        (
            lambda state: {"state_dict_ema": backbone_of(state)},
            "'{stem}_weights.pth')\". With no prefix, 54 of the 54 keys of model.backbone",
        ),
        (lambda state: {"state_dict": {"other.weight": torch.zeros(2)}}, "No prefix would match either"),
        (lambda state: {}, "No prefix would match either"),
    ],
    ids=["torchvision", "MoCo", "MMRazor", "timm", "averages", "another network", "empty"],
)
def test_nothing_matches(load, source, tmp_path, make, remedy):
    with pytest.raises(PretrainedKeysError, match=r"load_from: nothing of .* fits ImageClassifier: 0 keys") as caught:
        load(make(source))
    file = tmp_path / "file.pth"
    assert remedy.format(file=file, stem=file.with_suffix("")) in str(caught.value)


@pytest.mark.parametrize("layout", ["torchvision", "MoCo", "MMRazor"])
def test_the_named_remedy_works(source, tmp_path, layout):
    file = str(tmp_path / "file.pth")
    prefix = {"torchvision": "", "MoCo": "module.encoder_q.", "MMRazor": "architecture."}[layout]
    init_cfg = {"type": "Pretrained", "checkpoint": file, **({"prefix": prefix} if prefix else {})}
    if layout == "MMRazor":
        torch.save({"state_dict": {prefix + key: value for key, value in source.items()}}, file)
        model = build_model("ImageClassifier", **network(8), init_cfg=init_cfg)
    else:
        torch.save({"state_dict": backbone_of(source, prefix)}, file)
        backbone = {**network(8)["backbone"], "init_cfg": init_cfg}
        model = build_model("ImageClassifier", **network(8, backbone=backbone))
    model.init_weights()
    assert torch.equal(model.backbone.conv1.weight, source["backbone.conv1.weight"])


def test_another_width_matches_nothing_but_counters(load):
    with pytest.raises(PretrainedKeysError, match="The names fit, the shapes do not"):
        load({"state_dict": build_model("ImageClassifier", **network("8x4", num_classes=3)).state_dict()})


@pytest.mark.parametrize("case", ["no head", "other classes", "deeper", "shallower"])
def test_a_partial_match_is_a_warning(load, source, case):
    state, model = dict(source), None
    if case == "no head":
        state, found = (
            {key: value for key, value in source.items() if key.startswith("backbone.")},
            "2 missing (head.fc",
        )
    elif case == "other classes":
        model, found = build_model("ImageClassifier", **network(8, num_classes=3)), "2 of another shape (head.fc.weight"
    elif case == "deeper":
        state = build_model("ImageClassifier", **network(20)).state_dict()
        found = "0 missing, 60 unexpected (backbone.layer1.1.conv1.weight"
    else:
        model, found = build_model("ImageClassifier", **network(20)), "missing (backbone.layer1.1.conv1.weight"
    _, level, line = load({"state_dict": state}, model)
    assert level == 30
    assert "Only a part fits: " in line
    assert found in line


def test_train_only_parts_do_not_count(load, source):
    _, level, line = load({"state_dict": source}, build_model("mmkdprune.MixSKD", **network(8)))
    assert (level, "56 keys matched" in line, "Only a part" in line) == (20, True, False)
    _, level, line = load({"state_dict": build_model("mmkdprune.MixSKD", **network(8)).state_dict()})
    assert (level, "Only a part" in line) == (20, False)


def test_all_parts_of_other_models_count():
    model = torch.nn.ModuleDict({"backbone": torch.nn.Linear(1, 1), "bbox_head": torch.nn.Linear(1, 1)})
    report = KeyReport(["backbone.weight", "backbone.bias"], ["bbox_head.weight"], ["roi_head.weight"])
    assert partial_match(model, report).missing == ["bbox_head.weight"]
    assert partial_match(model, report).unexpected == []


def test_a_run_that_resumes_without_its_pruning_is_refused():
    hook, runner = CheckResumeHook(), SimpleNamespace(iter=7, hooks=[])
    hook.before_train(runner)
    hook.after_load_checkpoint(runner, {"mmkdprune": {}})
    hook.before_train(runner)
    hook.after_load_checkpoint(runner, {"mmkdprune": {"pruning": {"method": "sfp"}}})
    with pytest.raises(
        ResumeError, match=r"was pruned while it trained \(sfp\), but this run has no FilterPruningHook"
    ):
        hook.before_train(runner)
    with pytest.raises(ResumeError):  # a checkpoint from within the first epoch, which starts again
        hook.before_train(SimpleNamespace(iter=0, _is_resumed=True, hooks=[]))
    hook.before_train(SimpleNamespace(iter=0, hooks=[]))  # a new run from its weights
    hook.before_train(SimpleNamespace(iter=7, hooks=[FilterPruningHook(pruner={"method": "sfp", "rate": 0.4})]))
