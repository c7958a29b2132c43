import pytest
import torch
from fine_tune import write_adapted
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from testing_helpers import REPOSITORY

from mmkdprune.config.reading import read_config
from mmkdprune.errors import UsageError

DETECTOR = REPOSITORY / "configs/transfer/detection/retinanet_r18-w16-cifar100_fpn_1xb8-16e_bccd-320x240.py"
BACKBONE = {"type": "ResNet", "depth": 18, "base_channels": 16, "stem_channels": 16}


@pytest.fixture(scope="module", autouse=True)
def _packages():
    pytest.importorskip("mmdet")


def test_random_weights(tmp_path):
    file = tmp_path / "a.py"
    write_adapted(read_config(str(DETECTOR)), None, file)
    adapted = Config.fromfile(file)
    assert adapted.model.backbone.init_cfg is None
    assert adapted.model.data_preprocessor.bgr_to_rgb
    write_adapted(read_config(str(DETECTOR)), None, file)  # the same again is no conflict
    with pytest.raises(UsageError, match=r"a\.py exists already and differs: remove its folder"):
        write_adapted(read_config(str(DETECTOR), {"train_cfg.max_epochs": 3}), None, file)


def test_a_trained_backbone(tmp_path):
    init_default_scope("mmpretrain")
    backbone = MODELS.build(dict(BACKBONE))
    weights = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    torch.save({"state_dict": weights, "meta": {}}, tmp_path / "epoch_30.pth")
    write_adapted(read_config(str(DETECTOR)), tmp_path / "epoch_30.pth", tmp_path / "a.py")
    init_cfg = Config.fromfile(tmp_path / "a.py").model.backbone.init_cfg
    assert (init_cfg.checkpoint, init_cfg.prefix) == (str(tmp_path / "epoch_30.pth"), "backbone.")


def test_bad_command_lines(tmp_path, run_here):
    words = ["benchmarks/fine_tune.py", DETECTOR, "--work-dir", tmp_path, "--name", "a"]
    assert "--compact needs --backbone" in run_here(*words, "--compact", "x.py", status=2)
    assert "there is no checkpoint" in run_here(*words, "--backbone", tmp_path / "nothing.pth", status=1)
