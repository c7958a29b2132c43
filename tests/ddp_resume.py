"""Runs that go on in two processes instead of one, and in one instead of two; started as a script by test_resume.py."""

import contextlib
import itertools
import math
import sys
from pathlib import Path

import torch.distributed as torch_dist
import toy_run
from mmengine.config import Config
from mmengine.runner import Runner
from testing_helpers import join_two_processes, network

from mmkdprune.compat.distributed import leave_finished_process
from mmkdprune.engine.hooks import FilterPruningHook

EPOCHS, IMAGES, BATCH = 4, 24, 4
_numbers = itertools.count()


def run(folder: Path, begin: bool = False, **settings) -> Runner:
    """Train for four epochs, or for two of them in a run that is begun; batches are as large in each process."""
    distributed = torch_dist.is_initialized()
    pruner = {"method": "ghfp-asrfp", "rate": 0.5}
    hooks = [
        {"type": "mmkdprune.FilterPruningHook", "report": False, "pruner": pruner},
        {"type": "mmkdprune.ChannelsLastHook"},
        {"type": "SyncBuffersHook"},
    ]
    iterations = IMAGES // BATCH // (2 if distributed else 1)
    if begin:
        hooks.append({"type": "Interruption", "after": 2 * iterations + 1})
    cosine = {"type": "CosineAnnealingLR", "by_epoch": True, "end": EPOCHS, "convert_to_iter_based": True}
    wrapper = {"type": "MMDistributedDataParallel", "device_ids": None, "find_unused_parameters": True}
    runner = Runner.from_cfg(
        Config(
            {
                "model": {"type": "ImageClassifier", **network(8)},
                "work_dir": str(folder),
                "train_dataloader": {
                    "batch_size": BATCH,
                    "dataset": {
                        "type": "mmkdprune.Digits",
                        "split": "train",
                        "indices": IMAGES,
                        "pipeline": [{"type": "PackInputs"}],
                    },
                    "sampler": {"type": "DefaultSampler", "shuffle": True},
                    "collate_fn": {"type": "default_collate"},
                },
                "train_cfg": {"by_epoch": True, "max_epochs": EPOCHS},
                "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.01, "momentum": 0.9}},
                "param_scheduler": {**cosine, "T_max": EPOCHS, "eta_min": 0.001},
                "custom_hooks": hooks,
                "launcher": "pytorch" if distributed else "none",
                "randomness": {"seed": 0},
                "log_level": "ERROR",
                "experiment_name": f"resume{next(_numbers)}",
                "default_scope": "mmpretrain",
                **({"model_wrapper_cfg": wrapper} if distributed else {}),
                **settings,
            }
        )
    )
    with contextlib.suppress(*([KeyboardInterrupt] if begin else [])):
        runner.train()
    assert not begin or runner.iter == 2 * iterations + 1
    return runner


def assert_finished(runner: Runner) -> None:
    """The run is where one that always had as many processes would be: iterations, learning rate, prune steps."""
    assert (runner.epoch, runner.iter) == (EPOCHS, EPOCHS * len(runner.train_dataloader))
    assert len(runner.train_dataloader) == IMAGES // BATCH // runner.world_size
    (group,) = runner.optim_wrapper.param_groups
    done = (runner.iter - 1) / runner.iter  # the schedule's last value is that of the last iteration
    assert math.isclose(group["lr"], 0.001 + 0.009 * (1 + math.cos(math.pi * done)) / 2, rel_tol=1e-9), group["lr"]
    (pruner,) = (hook.pruner for hook in runner.hooks if isinstance(hook, FilterPruningHook))
    entry = pruner.report()
    assert entry["finalized"]
    assert (entry["t"], entry["total"], entry["rate"]) == (EPOCHS - 1, EPOCHS, 0.5)
    assert entry["zero"] == entry["hard"] == sum(unit.size // 2 for unit in pruner.units)


def main(rank: int, folder: Path) -> None:
    """One of two processes."""
    join_two_processes(rank, folder)
    assert_finished(run(folder / "begun_in_one", resume=True))
    run(folder / "begun_in_two", begin=True)
    whole = run(folder / "whole")
    rest = run(folder / "rest", resume=True, load_from=str(folder / "begun_in_two" / "epoch_2.pth"))
    for part in ("model", "optim_wrapper"):
        toy_run.assert_equal(*(dict(getattr(runner, part).state_dict()) for runner in (whole, rest)), part)
    leave_finished_process()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
