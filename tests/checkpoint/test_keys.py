import pytest
import torch
from mmengine.model import BaseModule
from torch import nn

from mmkdprune.checkpoint.keys import KeyReport, PretrainedKeysError, load_backbone, report_loaded_keys


class Backbone(BaseModule):
    def __init__(self, width=4, init_cfg=None):
        super().__init__(init_cfg=init_cfg)
        self.conv = nn.Conv2d(3, width, 1)
        self.bn = nn.BatchNorm2d(width)


class RenamingBackbone(Backbone):
    """Reads its checkpoints of before a renaming, as MMPretrain's backbones do."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._register_load_state_dict_pre_hook(self._rename)

    def _rename(self, state_dict, *args):
        for key in list(state_dict):
            state_dict[key.replace("old_", "")] = state_dict.pop(key)


@pytest.fixture
def lines(monkeypatch):
    """What is logged."""
    messages = []
    monkeypatch.setattr("mmengine.logging.print_log", lambda message, *args, **kwargs: messages.append(message))
    return messages


@pytest.fixture
def checkpoint(tmp_path):
    """A classifier's checkpoint: 7 keys of the backbone, 2 of the head."""

    def save(backbone=None, prefix="backbone."):
        backbone = backbone or Backbone()
        state_dict = {f"{prefix}{key}": value for key, value in backbone.state_dict().items()}
        state_dict.update({"head.fc.weight": torch.zeros(2, 4), "head.fc.bias": torch.zeros(2)})
        torch.save({"meta": {}, "state_dict": state_dict}, tmp_path / "epoch_1.pth")
        return str(tmp_path / "epoch_1.pth")

    return save


def test_report_of_names():
    report = report_loaded_keys(["a", "b"], ["b", "c"])
    assert report == KeyReport(matched=["b"], missing=["a"], unexpected=["c"])
    assert report.line() == "1 keys matched, 1 missing (a), 1 unexpected (c)"


def test_report_of_shapes():
    report = report_loaded_keys({"a": torch.zeros(2), "b": torch.zeros(3)}, {"a": torch.zeros(2), "b": torch.zeros(4)})
    assert report == KeyReport(matched=["a"], mismatched=["b"])
    assert report.line() == "1 keys matched, 0 missing, 0 unexpected, 1 of another shape (b)"


def test_long_lists_are_cut():
    assert report_loaded_keys([], "abcdef").line(limit=2) == "0 keys matched, 0 missing, 6 unexpected (a, b, ...)"


@pytest.mark.parametrize("prefix", ["backbone.", "backbone"])
def test_init_cfg_loads_and_reports(checkpoint, lines, prefix):
    source = Backbone()
    file = checkpoint(source)
    backbone = Backbone(init_cfg={"type": "Pretrained", "checkpoint": file, "prefix": prefix})
    backbone.init_weights()
    assert all(torch.equal(one, other) for one, other in zip(backbone.parameters(), source.parameters(), strict=True))
    (line,) = [line for line in lines if "keys matched" in line]
    assert line == f"Backbone loaded from {file} (prefix {prefix!r}): 7 keys matched, 0 missing, 0 unexpected"


def test_whole_model_reports_what_does_not_fit(checkpoint, lines):
    file = checkpoint(prefix="module.")
    backbone = Backbone(init_cfg={"type": "Pretrained", "checkpoint": file})
    backbone.extra = nn.Linear(1, 1)
    backbone.init_weights()
    (line,) = [line for line in lines if "keys matched" in line]
    assert line.endswith(
        "7 keys matched, 2 missing (extra.weight, extra.bias), 2 unexpected (head.fc.weight, head.fc.bias)"
    )


def test_other_shapes_are_not_loaded_and_named(checkpoint):
    source = Backbone()
    source.bn = nn.BatchNorm2d(5)
    report = load_backbone(Backbone(), checkpoint(source))
    assert report.mismatched == ["bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"]
    assert report.matched == ["conv.weight", "conv.bias", "bn.num_batches_tracked"]


def test_absent_buffers_count_as_missing(checkpoint):
    source = Backbone()
    source.bn = nn.BatchNorm2d(4, track_running_stats=False)
    report = load_backbone(Backbone(), checkpoint(source))
    assert sorted(report.missing) == ["bn.num_batches_tracked", "bn.running_mean", "bn.running_var"]


@pytest.mark.parametrize("prefix", ["neck.", None], ids=["absent prefix", "no prefix"])
def test_nothing_matched(checkpoint, prefix):
    file = checkpoint()
    backbone = Backbone(init_cfg={"type": "Pretrained", "checkpoint": file, "prefix": prefix})
    with pytest.raises(PretrainedKeysError) as caught:
        backbone.init_weights()
    message = str(caught.value)
    assert file in message
    assert repr(prefix) in message or prefix is None
    assert "backbone. (7), head. (2)" in message
    assert "With prefix='backbone.', 7 of the module's 7 keys would match" in message
    assert caught.value.__cause__ is None


def test_nothing_matched_by_name(checkpoint):
    with pytest.raises(PretrainedKeysError, match="No prefix would match either"):
        load_backbone(nn.Linear(5, 3), checkpoint(), prefix="head.")  # only `head.fc.` has such names: other shapes


def test_nothing_matched_by_shape(checkpoint):
    source = Backbone(width=6)
    del source.bn
    target = Backbone()
    del target.bn
    with pytest.raises(PretrainedKeysError, match="another variant of the network"):
        load_backbone(target, checkpoint(source))


def test_deeper_prefix_is_found(checkpoint):
    file = checkpoint(prefix="teacher.network.backbone.")
    with pytest.raises(PretrainedKeysError, match=r"With prefix='teacher\.network\.backbone\.'"):
        load_backbone(Backbone(), file)
    assert len(load_backbone(Backbone(), file, prefix="teacher.network.backbone.").matched) == 7


def test_backbone_file_without_prefix(tmp_path):
    file = str(tmp_path / "bare.pth")
    torch.save(Backbone().state_dict(), file)
    with pytest.raises(PretrainedKeysError, match="With no prefix, 7 of the module's 7 keys would match"):
        load_backbone(Backbone(), file)
    assert len(load_backbone(Backbone(), file, prefix=None).matched) == 7


def test_keys_that_the_module_renames_are_matched(tmp_path):
    source, target = Backbone(), RenamingBackbone()
    file = str(tmp_path / "old.pth")
    torch.save({f"backbone.old_{key}": value for key, value in source.state_dict().items()}, file)
    report = load_backbone(target, file)
    assert torch.equal(target.conv.weight, source.conv.weight)
    assert "conv.weight" in report.matched


def test_module_without_keys(checkpoint):
    assert load_backbone(nn.ReLU(), checkpoint(), prefix="neck.") == KeyReport()


def test_absent_file():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        load_backbone(Backbone(), "nowhere.pth")
