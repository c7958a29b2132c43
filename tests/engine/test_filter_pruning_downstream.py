"""The hook on a detector and a segmentor, unchanged. Skipped where MMDetection or MMSegmentation is absent."""

import math

import pytest
import torch
from downstream_models import detector, faster_rcnn, segmentor
from mmengine.config import ConfigDict
from mmengine.runner import Runner
from toy_pruning_run import load


@pytest.mark.parametrize(
    ("package", "make", "coupling"),
    [
        ("mmdet", detector, "independent"),
        ("mmdet", faster_rcnn, "group"),
        ("mmseg", segmentor, "independent"),
        ("mmseg", segmentor, "group"),
    ],
)
def test_training_ends_pruned(tmp_path, package, make, coupling):
    module = pytest.importorskip(package)
    pytest.importorskip(f"{package}.utils").register_all_modules(init_default_scope=True)
    by_epoch = package == "mmdet"
    runner = Runner(
        model=ConfigDict(make()),
        work_dir=str(tmp_path),
        train_dataloader={
            "dataset": {"type": "mmengine.ToyScenes", "kind": package},
            "batch_size": 2,
            "num_workers": 0,
            "sampler": {"type": "DefaultSampler" if by_epoch else "InfiniteSampler", "shuffle": True},
        },
        train_cfg={"by_epoch": True, "max_epochs": 3} if by_epoch else {"by_epoch": False, "max_iters": 9},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.01, "momentum": 0.9}, "clip_grad": {"max_norm": 10}},
        default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 9, "by_epoch": by_epoch}},
        custom_hooks=[
            {
                "type": "mmkdprune.FilterPruningHook",
                "pruner": {"method": "ghfp-asrfp", "rate": 0.4, "coupling": coupling},
                "recalibrate_bn": 1,
            }
        ],
        default_scope=package,
        experiment_name=f"{package}_{coupling}",
        log_level="ERROR",
    )
    runner.train()
    assert module.__version__
    (file,) = tmp_path.glob("epoch_3.pth" if by_epoch else "iter_9.pth")
    checkpoint = load(file)
    units = checkpoint["mmkdprune"]["pruning"]["units"]
    # without the projection shortcuts 17 convolutions, 19 with the deep stem
    assert len(units) == {"independent": 17, "group": 12}[coupling] + (0 if by_epoch else 2)
    for name, unit in units.items():
        zero = (checkpoint["state_dict"][f"backbone.{name}.weight"] == 0).flatten(1).all(1)
        assert torch.equal(zero, unit["pruned"])
        assert int(zero.sum()) == math.floor(len(zero) * 0.4)
    assert (tmp_path / "pruning_report.png").is_file()
