"""Every algorithm in two processes with all that large runs use; started as a script by test_scale.py."""

import sys
from pathlib import Path

import torch
import torch.distributed as torch_dist
from mmengine.hooks import EMAHook
from mmengine.runner import Runner
from testing_helpers import COHORTS, build_algorithm, build_model, join_two_processes, network
from torch import nn

from mmkdprune.commands.dry_run.trial import run_trial
from mmkdprune.compat.distributed import leave_finished_process

RATE, BATCHES, ACCUMULATED = 0.01, 4, 2
VIEWS = {"type": "MultiView", "num_views": 2, "transforms": [[{"type": "RandomCrop", "crop_size": 16, "padding": 2}]]}


def with_synchronised_norms(model: nn.Module) -> nn.Module:
    """Return the model as a config with norm_cfg type 'SyncBN' would give it."""
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def build(name: str, folder: Path) -> nn.Module:
    """Build an algorithm, also the one without labels."""
    if name != "MoCoMCL":
        return build_algorithm(name, folder)
    torch.manual_seed(0)
    neck = {"type": "LinearNeck", "in_channels": 64, "out_channels": 16, "gap_dim": 2, "norm_cfg": None}
    options = {"queue_len": 2 * 8 * BATCHES, "feat_dim": 16, "data_preprocessor": {"type": "SelfSupDataPreprocessor"}}
    return build_model("mmkdprune.MoCoMCL", backbone=network(8)["backbone"], neck=neck, **options)


def make_runner(name: str, folder: Path, run: str = "run") -> Runner:
    """A run of four batches of 2 x 8 images, for a learning rate that was chosen for 8."""
    model = build(name, folder)
    pairs = {"batch_sampler": {"type": "mmkdprune.ClassPairBatchSampler", "samples_per_class": 2}}
    return Runner(
        model=with_synchronised_norms(model) if name != "LayerwiseMCL" else model,
        work_dir=str(folder / name),
        train_dataloader={
            "batch_size": 8,
            "dataset": {
                "type": "mmkdprune.Digits",
                "split": "train",
                "size": 16,
                "indices": 16 * BATCHES,
                "pipeline": [*([VIEWS] if name == "MoCoMCL" else []), {"type": "PackInputs"}],
            },
            "sampler": {"type": "DefaultSampler", "shuffle": True},
            "collate_fn": {"type": "default_collate"},
            **(pairs if name in COHORTS else {}),
        },
        train_cfg={"by_epoch": True, "max_epochs": 1},
        optim_wrapper={
            "optimizer": {"type": "SGD", "lr": RATE, "momentum": 0.9},
            "accumulative_counts": ACCUMULATED,
        },
        auto_scale_lr={"base_batch_size": 8, "enable": True},
        default_hooks={"checkpoint": {"type": "CheckpointHook", "save_last": False, "interval": -1}},
        custom_hooks=[{"type": "EMAHook", "momentum": 0.1}],
        launcher="pytorch",
        randomness={"seed": 0},
        log_level="ERROR",
        experiment_name=f"{run}_{name}",
        default_scope="mmpretrain",
        cfg={
            "sync_bn": None if name == "LayerwiseMCL" else "torch",
            "model_wrapper_cfg": {
                "type": "MMDistributedDataParallel",
                "device_ids": None,
                "broadcast_buffers": False,
            },
        },
    )


def assert_ranks_agree(model: nn.Module, name: str) -> None:
    """Compare the parameters, and queues of keys, with those of the first process."""
    queues = [(key, buffer) for key, buffer in model.named_buffers() if "criterion" in key]
    for key, value in [*model.named_parameters(), *queues]:
        other = value.detach().clone()
        torch_dist.broadcast(other, 0)
        assert torch.equal(other, value), f"{name}: {key}"


def main(rank: int, folder: Path) -> None:
    """One of two processes."""
    join_two_processes(rank, folder)
    own = folder / str(rank)
    own.mkdir()
    # As many steps in all processes, however long they take: each step is one of all.
    trial = run_trial(make_runner("MixSKD", own, "dry_run"))
    assert trial.step > 0
    assert trial.losses["loss_disc"] > 0
    for name in ("MixSKD", "HSAKD", "OnlineHSSAKD", "KnowledgeDistillation", *COHORTS, "MoCoMCL"):
        runner = make_runner(name, own)
        before = {key: value.clone() for key, value in runner.model.module.state_dict().items()}
        steps = []
        runner.optim_wrapper = wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        original = wrapper.step
        wrapper.step = lambda *args, original=original, steps=steps, **options: (
            steps.append(1),
            original(*args, **options),
        )
        runner.train()
        assert len(steps) == BATCHES // ACCUMULATED, name
        assert {group["lr"] for group in wrapper.param_groups} == {2 * RATE}, name
        assert not any("SyncBatchNorm" in type(module).__name__ for module in runner.model.modules()), name
        (average,) = (hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook))
        assert_ranks_agree(runner.model, name)
        assert_ranks_agree(average, name)
        after = runner.model.module.state_dict()
        assert all(torch.isfinite(value).all() for value in after.values()), name
        assert not torch.equal(after["backbone.conv1.weight"], before["backbone.conv1.weight"]), name
        mean, weight = average.module.state_dict()["backbone.conv1.weight"], after["backbone.conv1.weight"]
        assert not torch.equal(mean, weight), name
    leave_finished_process()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
