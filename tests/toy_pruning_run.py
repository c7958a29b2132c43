"""The toy run of ``toy_run`` with a convolutional network that is pruned.

Imported by tests, and started as a script by the test with two processes.
"""

import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as torch_dist
import toy_run
from mmengine.registry import MODELS
from torch import nn
from toy_nets import Residual

from mmkdprune.compat.distributed import leave_finished_process

PRUNER = {"method": "ghfp-asrfp", "rate": 0.4}


@MODELS.register_module(force=True)
class ToyPrunedModel(toy_run.ToyModel):
    """``ToyModel`` with a backbone of convolutions; its six numbers are an image of 3 x 1 x 2."""

    def __init__(self):
        super().__init__()
        del self.body
        self.backbone, self.head = Residual(width=8), nn.Linear(16, 3)

    def body(self, x):
        return self.head(self.backbone(x.view(-1, 3, 1, 2)).mean((2, 3)))


def hook(pruner=None, **arguments):
    return {"type": "mmkdprune.FilterPruningHook", "pruner": {**PRUNER, **(pruner or {})}, "report": False, **arguments}


def settings(*hooks, pruner=None, arguments=None, **others):
    """Settings of ``toy_run.make_runner`` for a pruned run."""
    custom_hooks = [hook(pruner, **(arguments or {})), *hooks]
    return {"model": {"type": "ToyPrunedModel"}, "seed": 3, "custom_hooks": custom_hooks, **others}


def pruning_hook(runner):
    (found,) = [one for one in runner.hooks if type(one).__name__ == "FilterPruningHook"]
    return found


def train(work_dir, *hooks, pruner=None, arguments=None, **others):
    runner = toy_run.make_runner(work_dir, **settings(*hooks, pruner=pruner, arguments=arguments, **others))
    runner.train()
    return runner


def load(path):
    return torch.load(path, weights_only=True)


def main(rank, folder):
    """One of two processes."""
    torch.set_num_threads(1)
    torch_dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    wrapper = {"type": "MMDistributedDataParallel", "device_ids": None, "broadcast_buffers": False}
    arguments = {"recalibrate_bn": 1, "evaluate_finalize": True}
    hooks = {"type": "SyncBuffersHook"}
    common = {"model_wrapper_cfg": wrapper, "launcher": "pytorch", "length": 6, "ema": {"update_buffers": True}}
    common = settings(hooks, arguments=arguments, **common)
    whole, rest = toy_run.train_twice(folder, 9, **common)
    for runner in (whole, rest):
        masks = dict(pruning_hook(runner).pruner.masks)
        assert int(masks["conv1"].sum()) == 3
        both = [None, None]
        torch_dist.all_gather_object(both, masks)
        toy_run.assert_equal(*both)
        weights = [None, None]
        # the statistics, too, which were taken on other images in each process
        torch_dist.all_gather_object(weights, dict(runner.model.module.state_dict()))
        toy_run.assert_equal(*weights)
        results = [None, None]
        torch_dist.all_gather_object(results, pruning_hook(runner).results["after_finalize"])
        toy_run.assert_equal(*results)
    check_that_a_difference_is_noticed(Path(folder) / "differs", rank, common)
    check_that_gradients_rank_alike(Path(folder) / "gradients", common)
    check_that_the_first_process_measures(Path(folder) / "latency", rank, common)
    leave_finished_process()


def check_that_a_difference_is_noticed(folder, rank, common):
    runner = toy_run.make_runner(folder, **{**common, "length": 2})
    found = pruning_hook(runner)
    original = found.after_train_epoch

    def after_train_epoch(runner):
        if rank == 1:
            with torch.no_grad():
                runner.model.module.backbone.layer1.conv2.weight[0] *= 1e-3 if runner.epoch == 1 else 1
        original(runner)

    found.after_train_epoch = after_train_epoch
    with pytest.raises(RuntimeError, match=r"the processes chose different filters in layer1\.conv2"):
        runner.train()


def check_that_gradients_rank_alike(folder, common):
    """The optimizer's gradients are the mean over both processes, whose own ones differ."""
    hooks = [hook({"bn_policy": "scale", "criterion": "taylor"})]
    runner = toy_run.make_runner(folder, **{**common, "length": 3, "custom_hooks": hooks})
    runner.train()
    state = pruning_hook(runner).pruner.state_dict()["gradients"]
    assert state["mean"].any()
    both = [None, None]
    torch_dist.all_gather_object(both, state)
    toy_run.assert_equal(*both)


def check_that_the_first_process_measures(folder, rank, common):
    """Its budget, or its error, is everybody's."""
    calls = []
    pruner = {"rate": None, "target": {"latency": 0.6, "batch_size": 2}, "round_to": 2, "example_input": (3, 8, 8)}

    def timer(noise):
        def seconds(network, images):
            calls.append(rank)
            return parameters(network) * (1 + noise * (len(calls) // 2 % 3))

        return seconds

    settings = {**common, "length": 1, "custom_hooks": [hook(pruner)]}
    runner = toy_run.make_runner(folder, **settings)
    found = pruning_hook(runner)
    found.builder.timer = timer(0.0)
    runner.train()
    budgets = [None, None]
    torch_dist.all_gather_object(budgets, found.builder.budget.state_dict())
    toy_run.assert_equal(*budgets)
    assert bool(calls) == (rank == 0)
    runner = toy_run.make_runner(folder / "busy", **settings)
    pruning_hook(runner).builder.timer = timer(1.0)
    with pytest.raises(ValueError, match="the measured latency differs by"):
        runner.train()


def parameters(network):
    """A clock for tests: seconds that a pass takes."""
    return 1e-3 * sum(parameter.numel() for parameter in network.parameters())


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
