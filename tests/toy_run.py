# ruff: noqa: NPY002 (the legacy functions are what MMEngine seeds and transforms use)
"""A run of seconds with everything random in it: augmentation (Python, NumPy, PyTorch), dropout, a private stream.

Imported by tests, and started as a script by the test with two processes.
"""

import contextlib
import itertools
import random
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as torch_dist
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from mmengine.runner import Runner
from torch import nn
from torch.nn import functional as F

import mmkdprune  # noqa: F401
from mmkdprune.compat.distributed import leave_finished_process
from mmkdprune.randomness import PrivateRandom

_run_numbers = itertools.count()


@DATASETS.register_module(force=True)
class ToyDataset(torch.utils.data.Dataset):
    metainfo = {"classes": ("a", "b", "c"), "palette": np.arange(9).reshape(3, 3)}

    def __init__(self, size=24):
        self.data = torch.randn(size, 6, generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        x = self.data[index] * (1 + 0.1 * np.random.rand()) + 0.1 * random.random() + 0.1 * torch.rand(6)
        return {"inputs": x.float(), "target": index % 3}


@MODELS.register_module(force=True)
class ToyModel(BaseModel):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
        self.mixing = PrivateRandom("toy mixing")
        self.drawn = []

    def forward(self, inputs, target, mode="tensor"):
        x, target = torch.stack(list(inputs)), torch.as_tensor(target)
        if mode != "loss":
            return self.body(x).argmax(1).eq(target)
        share, order = self.mixing.beta(0.4, 0.4), self.mixing.permutation(len(x))
        self.drawn.append(share)
        logits = self.body(share * x + (1 - share) * x[order])
        return {"loss": F.cross_entropy(logits, target) + 0.1 * F.cross_entropy(logits, target[order])}


@METRICS.register_module(force=True)
class ToyAccuracy(BaseMetric):
    def process(self, data_batch, data_samples):
        random.random()  # a careless metric
        self.results.extend(float(hit) for hit in data_samples)

    def compute_metrics(self, results):
        return {"acc": np.float64(np.mean(results)), "hits": np.array(results)}


@HOOKS.register_module(force=True)
class Interruption(Hook):
    """Ctrl-C when a number of iterations is done.

    A shorter run would not do as the first part: MMEngine resumes the end of its schedules, too.
    """

    def __init__(self, after):
        self.after = after

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.after:
            raise KeyboardInterrupt


def make_runner(
    work_dir, by_epoch=True, length=4, seed=None, diff_rank_seed=False, ema=True, checkpoint=None, workers=0, **settings
):
    """A runner of `length` epochs of 4 iterations, or of `length` iterations, validated on the way."""
    custom_hooks = [
        *settings.pop("custom_hooks", []),
        *([{"type": "EMAHook", **(ema if isinstance(ema, dict) else {})}] if ema else []),
    ]
    if by_epoch:
        train_cfg, sampler = {"by_epoch": True, "max_epochs": length}, "DefaultSampler"
    else:
        train_cfg, sampler = {"by_epoch": False, "max_iters": length, "val_interval": 2}, "InfiniteSampler"
    world_size = torch_dist.get_world_size() if torch_dist.is_initialized() else 1
    loader = {"dataset": {"type": "ToyDataset"}, "batch_size": 6 // world_size, "num_workers": workers}
    config = {
        "model": {"type": "ToyModel"},
        "work_dir": str(work_dir),
        "train_dataloader": dict(loader, sampler={"type": sampler, "shuffle": True}),
        "val_dataloader": dict(loader, sampler={"type": "DefaultSampler", "shuffle": False}),
        "train_cfg": train_cfg,
        "val_cfg": {},
        "val_evaluator": {"type": "ToyAccuracy"},
        "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9}},
        "param_scheduler": {"type": "MultiStepLR", "milestones": [1, 3], "by_epoch": by_epoch},
        "default_hooks": {
            "checkpoint": checkpoint or {"type": "CheckpointHook", "interval": 2, "by_epoch": by_epoch},
            "logger": {"type": "LoggerHook", "interval": 1},
        },
        "custom_hooks": custom_hooks,
        "randomness": {"seed": seed, "diff_rank_seed": diff_rank_seed},
        "log_level": "ERROR",
        # MMEngine shares one message hub between runs of the same name and second.
        "experiment_name": f"toy{next(_run_numbers)}",
        "default_scope": "mmengine",
        **settings,
    }
    return Runner.from_cfg(config)


def result_of(runner):
    """Everything of a finished run that a resumed run must reproduce."""
    hub = runner.message_hub.state_dict()["log_scalars"]
    model = runner.model.module if hasattr(runner.model, "module") else runner.model
    parts = {
        "model": dict(model.state_dict()),
        "optimizer": runner.optim_wrapper.state_dict(),
        # Each rank logs its own loss, and rank 0 saves.
        "log": {key: hub[key] for key in ("train/loss", "train/lr") if runner.rank == 0},
        "private": model.mixing.beta(1, 1),
        "next": [torch.rand(3), torch.as_tensor(np.random.rand(3)), random.random()],
    }
    parts["ema"] = [dict(hook.ema_model.state_dict()) for hook in runner.hooks if hasattr(hook, "ema_model")]
    return parts


def assert_equal(first, second, path="run"):
    """Compares nested data bit for bit."""
    assert type(first) is type(second), path
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), path
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            assert_equal(first[key], second[key], f"{path}.{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), path
        for index, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_equal(one, other, f"{path}[{index}]")
    else:
        assert first == second, path


def train_twice(folder, stop_after, **settings):
    """Trains in one go, and again with an interruption after some iterations; asserts that the results are equal."""
    whole = make_runner(Path(folder) / "whole", **settings)
    whole.train()
    expected = result_of(whole)
    # The second run begins like the first: without a configured seed, with the one that was drawn.
    begun = {**settings, "seed": whole.seed}
    begun["custom_hooks"] = [*settings.get("custom_hooks", []), {"type": "Interruption", "after": stop_after}]
    parts = make_runner(Path(folder) / "parts", **begun)
    with contextlib.suppress(KeyboardInterrupt):
        parts.train()
    assert parts.iter == stop_after
    rest = make_runner(Path(folder) / "parts", resume=True, **settings)
    rest.train()
    assert_equal(expected, result_of(rest))
    return whole, rest


def main(rank, folder):
    """One of two processes."""
    torch.set_num_threads(1)
    torch_dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    wrapper = {"type": "MMDistributedDataParallel", "device_ids": None, "broadcast_buffers": False}
    # Only rank 0's running statistics are saved, so the ranks must agree on them.
    hooks = [{"type": "SyncBuffersHook"}]
    whole, rest = train_twice(folder, 9, model_wrapper_cfg=wrapper, launcher="pytorch", custom_hooks=hooks)
    for runner in (whole, rest):
        drawn = [None, None]
        torch_dist.all_gather_object(drawn, runner.model.module.drawn)
        assert not set(drawn[0]) & set(drawn[1]), "both processes mix with the same numbers"
    leave_finished_process()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
