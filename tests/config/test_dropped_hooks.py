"""Hooks of a stock config that a list of one's own drops."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.hub import get_config

from mmkdprune.config.dropped_hooks import dropped_hooks

OURS = "custom_hooks = [dict(type='mmkdprune.FilterPruningHook', pruner=dict(method='sfp', rate=0.4))]\n"
STOCK = {
    "mmpretrain::convnext/convnext-tiny_32xb128_in1k.py": ["EMAHook"],
    "mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py": ["EMAHook", "PipelineSwitchHook"],
    "mmdet::yolox/yolox_s_8xb8-300e_coco.py": ["YOLOXModeSwitchHook", "SyncNormHook", "EMAHook"],
}


def write(folder: Path, name: str, base: str | list[str], rest: str = "") -> Path:
    file = folder / f"{name}.py"
    file.write_text(f"_base_ = {base!r}\n{rest}")
    return file


@pytest.mark.parametrize("base", STOCK)
def test_hooks_of_stock_configs(base, tmp_path):
    pytest.importorskip(base.split("::")[0])
    (warning,) = dropped_hooks(Config.fromfile(write(tmp_path, "mine", base, OURS)))
    assert f"so that {', '.join(STOCK[base])} will not run." in warning
    assert "mine.py" in warning
    assert "mmkdprune::_base_/prune.py" in warning
    # What says nothing of hooks, names them all, or has none on purpose, drops none.
    for rest in (
        "",
        "custom_hooks = []\n",
        OURS.replace("]", "".join(f", dict(type={n!r})" for n in STOCK[base]) + "]"),
    ):
        assert not dropped_hooks(Config.fromfile(write(tmp_path, "mine", base, rest)))
    assert not dropped_hooks(Config.fromfile(write(tmp_path, "mine", [base, "mmkdprune::_base_/prune.py"])))


def test_a_file_further_up_that_drops_some(tmp_path):
    write(tmp_path, "base", "mmpretrain::convnext/convnext-tiny_32xb128_in1k.py", OURS)
    (warning,) = dropped_hooks(Config.fromfile(write(tmp_path, "mine", "base.py", "train_cfg = dict(max_epochs=1)\n")))
    assert str(tmp_path / "base.py") in warning


def test_configs_that_are_no_files_and_those_of_packages():
    assert not dropped_hooks(Config({"custom_hooks": [{"type": "EMAHook"}]}))
    assert not dropped_hooks(get_config("mmkdprune::pruning/ghfp-asrfp_resnet20_1xb64-20e_digits-16px.py"))
