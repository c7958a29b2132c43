"""Averaged gradients of two processes against the true mean; started as a script by test_gradient_buckets_hook.py."""

import copy
import itertools
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as torch_dist
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner
from testing_helpers import ALGORITHMS, COHORTS, build_algorithm, build_model, join_two_processes, network
from torch import nn

from mmkdprune.compat.distributed import leave_finished_process
from mmkdprune.engine.hooks import ChannelsLastHook, FilterPruningHook
from mmkdprune.engine.hooks.non_finite_loss_hook import NonFiniteLossError
from mmkdprune.engine.speed import DEFAULTS, apply_speed
from mmkdprune.pruning.gradient_masks import GradientMask

ITERATIONS, IMAGES = 3, 4
CHANNELS_LAST = {"type": "mmkdprune.ChannelsLastHook"}
VIEWS = {"type": "MultiView", "num_views": 2, "transforms": [[{"type": "RandomFlip", "prob": 0.5}]]}
PRUNING = {"type": "mmkdprune.FilterPruningHook", "report": False, "interval": 1}
_numbers = itertools.count()


class CompareWithTruth(Hook):
    """At every optimizer step, compute the gradients of all processes without a wrapper, and compare their mean."""

    priority = "LOWEST"

    def __init__(self, name: str) -> None:
        self.name, self.steps = name, 0

    def before_train(self, runner) -> None:
        """Come before each step; the gradients are gone afterwards."""
        original = runner.optim_wrapper.step

        def step(**options):
            self.compare(runner)
            original(**options)

        runner.optim_wrapper.step = step

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Remember all that the step depends on."""
        self.twin, self.batch, self.random = copy.deepcopy(runner.model.module), data_batch, torch.get_rng_state()

    def compare(self, runner) -> None:
        """Compare each gradient with the mean over the processes, in the plain memory format."""
        after = torch.get_rng_state()
        torch.set_rng_state(self.random)
        for parameter in self.twin.parameters():
            parameter.data = parameter.data.contiguous()
        losses = self.twin(**self.twin.data_preprocessor(self.batch, True), mode="loss")
        self.twin.parse_losses(losses)[0].backward()
        torch.set_rng_state(after)
        expected = {}
        for name, parameter in self.twin.named_parameters():
            if parameter.requires_grad:
                mean = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad / 2
                torch_dist.all_reduce(mean)
                expected[name] = mean
        _mask(expected, runner)
        found = {n: p.grad for n, p in runner.model.module.named_parameters() if p.grad is not None and p.requires_grad}
        largest = max(float(value.abs().max()) for value in expected.values())
        assert largest > 0, self.name
        assert torch_dist.get_world_size() == 2
        for name, mean in expected.items():
            error = float((found.get(name, torch.zeros_like(mean)) - mean).abs().max()) / largest
            assert error < 1e-12, f"{self.name}, iteration {self.steps}: {name} is off by {error:.1e}"
        self.steps += 1


def _mask(gradients, runner) -> None:
    """Zero what the pruner of a run masks in the gradients."""
    for pruner in [hook.pruner for hook in runner.hooks if isinstance(hook, FilterPruningHook)]:
        for unit in pruner.units if pruner.freeze == "grad" else ():
            for slot, tensor in unit.tensors(pruner.network):
                name = next(n for n, parameter in runner.model.module.named_parameters() if parameter is tensor)
                masked = GradientMask(unit, slot)(gradients[name])
                gradients[name] = gradients[name] if masked is None else masked


class Thaw(Hook):
    """Freeze a part of the model, and train it, at some iterations."""

    def __init__(self, part: str, **moments: bool) -> None:
        self.part, self.moments = part, moments

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Change what is trained."""
        if f"at_{batch_idx}" in self.moments:
            runner.model.module.get_submodule(self.part).requires_grad_(self.moments[f"at_{batch_idx}"])


class Convert(Hook):
    """Change the memory format of the model at an iteration."""

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Convert without a word to anybody."""
        if batch_idx == 1:
            runner.model.module.to(memory_format=torch.channels_last)


def double(model: nn.Module) -> nn.Module:
    """Return a model that computes in double precision."""
    model.data_preprocessor.register_forward_hook(_small_and_double)
    return model.double()


def _small_and_double(module, args, output):
    """Images of 8 x 8 pixels, to save time."""
    images = output["inputs"]
    small = [view[..., ::2, ::2].double() for view in (images if isinstance(images, list) else [images])]
    return {**output, "inputs": small if isinstance(images, list) else small[0]}


def build(name: str, folder: Path) -> nn.Module:
    """Build an algorithm, also the one without labels."""
    if name == "MoCoMCL":
        torch.manual_seed(0)
        neck = {"type": "LinearNeck", "in_channels": 64, "out_channels": 8, "gap_dim": 2, "norm_cfg": None}
        options = {"queue_len": 16, "feat_dim": 8, "data_preprocessor": {"type": "SelfSupDataPreprocessor"}}
        return double(build_model("mmkdprune.MoCoMCL", backbone=network(8)["backbone"], neck=neck, **options))
    if name in ("MCL-memory", "MCL-shared"):
        memory = {"loss": {"type": "mmkdprune.MemoryMutualContrastiveLoss"}, "num_negatives": 16}
        options = memory if name == "MCL-memory" else {"num_peers": 3, "shared_stages": 1}
        return double(build_model("mmkdprune.MCL", **network(8), **options))
    return double(build_algorithm(name, folder))


def make_runner(model: nn.Module, folder: Path, knows_hooks: bool = True, **settings) -> Runner:
    """A run of some iterations on tiny images; its weights are the ones that the model has."""
    model.init_weights = lambda: None
    two_views = [VIEWS] if type(model).__name__ == "MoCoMCL" else []
    pipeline = [*two_views, {"type": "PackInputs"}]
    wrapper = {"type": "MMDistributedDataParallel", "device_ids": None, "broadcast_buffers": False}
    number = next(_numbers)
    config = {
        "train_dataloader": {
            "batch_size": IMAGES,
            "dataset": {
                "type": "mmkdprune.Digits",
                "split": "train",
                "size": 16,
                "indices": 48,
                "pipeline": pipeline,
                "serialize_data": False,  # would collect garbage, which takes seconds where much is imported
            },
            "sampler": {"type": "InfiniteSampler", "shuffle": True},
            "collate_fn": {"type": "default_collate"},
        },
        "train_cfg": {"by_epoch": False, "max_iters": ITERATIONS},
        "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.01, "momentum": 0.9}},
        "default_hooks": {"checkpoint": {"type": "CheckpointHook", "interval": -1, "save_last": False}},
        **settings,
    }
    apply_speed(config)
    wrapper |= config.pop("wrapper", {})
    known = {name: config.get(name) for name in ("custom_hooks", "default_hooks")} if knows_hooks else {}
    for name in ("env_cfg", "compile"):
        config.pop(name, None)
    return Runner(
        model=model,
        work_dir=str(folder / f"run{number}"),
        launcher="pytorch",
        randomness={"seed": 0},
        log_level="ERROR",
        experiment_name=f"gradients{number}",
        default_scope="mmpretrain",
        cfg=Config({"model_wrapper_cfg": wrapper, **known}),
        **config,
    )


def train(name: str, runner: Runner) -> None:
    """Train, and compare in every iteration."""
    compare = CompareWithTruth(name)
    runner.register_hook(compare)
    runner.train()
    assert compare.steps == ITERATIONS, name


def check_algorithms(folder: Path) -> None:
    """Channels-last, with and without the search for unused parameters."""
    names = (*ALGORITHMS, *COHORTS, "MCL-memory", "MCL-shared", "MoCoMCL")
    for name, unused in itertools.product(names, (False, True)):
        own = folder / f"{name}-{unused}"
        own.mkdir()
        wrapper = {"find_unused_parameters": unused}
        runner = make_runner(build(name, own), own, wrapper=wrapper, custom_hooks=[CHANNELS_LAST])
        assert runner.model.module.backbone.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
        train(f"{name}, find_unused_parameters={unused}", runner)


def check_classifiers(folder: Path) -> None:
    """All ways to convert, and other changes after the model was wrapped."""
    pruner = {"method": "ghfp-asrfp", "rate": 0.5}
    variants: dict = {
        "speed": {"speed": DEFAULTS},
        "pruning": {"custom_hooks": [CHANNELS_LAST, {**PRUNING, "pruner": pruner}]},
        "masked gradients": {"custom_hooks": [CHANNELS_LAST, {**PRUNING, "pruner": {**pruner, "freeze": "grad"}}]},
        "averaged": {"custom_hooks": [{"type": "EMAHook"}, {**CHANNELS_LAST, "priority": "LOW"}]},
        "without a config": {"custom_hooks": [CHANNELS_LAST], "knows_hooks": False},
    }
    later: dict = {
        "registered later": ChannelsLastHook(),
        "another conversion": Convert(),
        "thawed": Thaw("backbone.layer1", at_0=False, at_1=True),
        "frozen": Thaw("backbone.layer2", at_1=False, at_2=True),
    }
    for name, unused in itertools.product((*variants, *later), (False, True)):
        settings = {"wrapper": {"find_unused_parameters": unused}, **variants.get(name, {})}
        runner = make_runner(build("ImageClassifier", folder), folder, **settings)
        if name in later:
            runner.register_hook(copy.copy(later[name]))
        train(f"{name}, find_unused_parameters={unused}", runner)
    for options in ({"static_graph": True}, {"gradient_as_bucket_view": True}):
        settings = {"wrapper": options, "custom_hooks": [CHANNELS_LAST]}
        train(str(options), make_runner(build("ImageClassifier", folder), folder, **settings))


def check_disagreement(folder: Path) -> None:
    """Processes that train different parameters stop with a message instead of waiting for each other."""
    runner = make_runner(build("ImageClassifier", folder), folder)
    runner.register_hook(Thaw("backbone.layer1", at_0=get_rank() == 0))
    with pytest.raises(RuntimeError, match="process 1 does not train the same parameters as process 0"):
        runner.train()


def check_non_finite_losses(folder: Path) -> None:
    """Losses that are NaN in one process stop all."""
    model = build("ImageClassifier", folder)
    original = model.parse_losses

    def parse_losses(losses: dict) -> tuple:
        extra = {"loss_extra": torch.tensor(float("nan"))} if get_rank() == 1 else {}
        return original({**losses, **extra})

    model.parse_losses = parse_losses
    with pytest.raises(NonFiniteLossError, match="loss_extra" if get_rank() == 1 else "in another process"):
        make_runner(model, folder).train()


def main(rank: int, folder: Path) -> None:
    """One of two processes."""
    join_two_processes(rank, folder)
    own = folder / str(rank)
    own.mkdir()
    check_algorithms(own)
    check_classifiers(own)
    check_disagreement(own)
    check_non_finite_losses(own)
    leave_finished_process()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
