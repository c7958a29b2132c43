"""In whatever order packages are imported, all that this one changes in them is in place."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from testing_helpers import REPOSITORY

from mmkdprune import install

# What is replaced: a function, a method or a property whose code is then of this package.
PLACES = [
    "mmengine.config:Config._get_cfg_path",
    "mmengine.dataset:BaseDataset._serialize_data",
    "mmengine.fileio:LocalBackend.put",
    "mmengine.fileio:LocalBackend.put_text",
    "mmengine.hooks:CheckpointHook._save_best_checkpoint",
    "mmengine.hooks:CheckpointHook._save_checkpoint_with_step",
    "mmengine.logging:MessageHub.load_state_dict",
    "mmengine.logging:MessageHub.state_dict",
    "mmengine.model:PretrainedInit.__call__",
    "mmengine.optim:AmpOptimWrapper.load_state_dict",
    "mmengine.optim:OptimWrapper.load_state_dict",
    "mmengine.runner:FlexibleRunner.__init__",
    "mmengine.runner:Runner._init_model_weights",
    "mmengine.runner:Runner._maybe_compile",
    "mmengine.runner:Runner.from_cfg",
    "mmengine.runner:Runner.load_checkpoint",
    "mmengine.runner:Runner.register_hooks",
    "mmengine.runner:Runner.resume",
    "mmengine.runner:Runner.wrap_model",
    "mmengine.runner:find_latest_checkpoint",
    "mmengine.runner:save_checkpoint",
    "mmengine.runner.checkpoint:load_from_http",
    "mmengine.runner.checkpoint:load_from_local",
    "mmengine.runner.runner:_load_checkpoint_to_model",
]
SHOWS_ALL_CHANGES = f"""
import importlib

def is_ours(place):
    module, _, path = place.partition(":")
    value = importlib.import_module(module)
    for name in path.split("."):
        value = getattr(value, name)
    return "/mmkdprune/" in getattr(value, "__func__", value).__code__.co_filename

assert not (lost := [place for place in {PLACES!r} if not is_ours(place)]), lost
from mmengine.hub import get_config
assert get_config("mmkdprune::mixskd/mixskd_resnet20_1xb64-20e_digits-16px.py").model.type == "mmkdprune.MixSKD"
from mmcv.ops import nms
import torch
boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4.1]])
assert len(nms(boxes, torch.tensor([0.9, 0.8]), 0.5)[1]) == 1
"""
ORDERS = [
    ("mmkdprune", "torch", "mmengine"),
    ("torch", "mmkdprune"),
    ("mmengine.runner", "mmkdprune"),
    ("mmkdprune", "mmcv.ops"),
    ("mmpretrain.models", "mmkdprune"),
    ("mmkdprune.models", "mmpretrain.models"),
    ("mmkdprune.checkpoint.keys",),
    ("mmkdprune", "mmdet.models"),
    ("mmdet", "mmkdprune"),
    ("mmkdprune", "mmseg.models"),
]


@pytest.mark.parametrize("order", ORDERS, ids=" ".join)
def test_every_order_of_imports(order):
    code = "\n".join([*(f"import {name}" for name in order), SHOWS_ALL_CHANGES])
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_import_alone_loads_nothing_heavy():
    code = "import sys, mmkdprune; print([name for name in ('torch', 'mmengine', 'numpy') if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True).stdout
    assert printed.strip() == "[]"


def test_what_is_installed_can_be_imported_while_mmengine_is():
    """The first import of MMEngine may come from any module of this package, which is then half imported itself."""
    tree = ast.parse(Path(install.__file__).read_text())
    names = [
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("mmkdprune")
        for alias in node.names
    ]
    assert len(names) > 10
    for package, name in names:
        code = f"import sys, {package}.{name} as module; assert 'mmengine' not in sys.modules"
        if name == "version":
            continue
        subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)
