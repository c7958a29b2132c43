"""Mutual contrastive learning in two processes: checks that ``ddp_step.py`` makes among its own."""

import torch
import torch.distributed as torch_dist
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmpretrain.structures import DataSample
from testing_helpers import build_model, network, samples

from mmkdprune.engine.hooks.meta_step_hook import average_over_processes, take_step

STEP = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}


def build(name: str, **options):
    """Build an algorithm, the same in every process, in double precision."""
    torch.manual_seed(0)
    model = build_model(f"mmkdprune.{name}", **network(8), **options)
    model.init_weights()
    return model.double()


def wrap(model):
    """Let two processes share a model."""
    return MMDistributedDataParallel(model, device_ids=None, broadcast_buffers=False)


def gradients(model, images, data_samples):
    """Gradients of the total loss; the weight network has none."""
    sum(model(images, data_samples, mode="loss").values()).backward()
    named = {name.removeprefix("module."): value.grad for name, value in model.named_parameters()}
    return {name: value.clone() for name, value in named.items() if value is not None}


def assert_equal_on_all_ranks(model) -> None:
    """Compare weights and buffers but batch norm statistics with those of the first process."""
    for name, value in model.state_dict().items():
        if "running_" not in name:
            other = value.clone()
            torch_dist.broadcast(other, 0)
            assert torch.equal(other, value), name


def check_gathered_contrast(images, labels, half) -> None:
    """The gradient of two processes is that of one with all images."""
    for name in ("MCL", "LayerwiseMCL"):
        gathered = {"loss": {"gather": True}}
        # Batch norm with its running statistics: those of a batch differ between one process and two.
        expected = gradients(build(name).eval(), images, labels)
        actual = gradients(wrap(build(name, **gathered).eval()), images[half], labels[half])
        torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-9)
        alone = gradients(wrap(build(name).eval()), images[half], labels[half])
        assert any(not torch.allclose(alone[key], value, rtol=1e-3) for key, value in expected.items())


def check_meta_gradient(images, labels, half) -> None:
    """The weight network's gradient of two processes is that of one with all images."""
    expected = build("LayerwiseMCL").eval().weight_gradient(images, labels, **STEP)
    model = build("LayerwiseMCL", loss={"gather": True}).eval()
    actual = model.weight_gradient(images[half], labels[half], average=average_over_processes, **STEP)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-9)


def check_training(rank: int) -> None:
    """After some steps on images of their own, the processes still agree."""
    generator = torch.Generator().manual_seed(rank)
    memory = {"loss": {"type": "mmkdprune.MemoryMutualContrastiveLoss"}, "num_negatives": 16}
    for name, options in (("MCL", memory), ("MCL", {"num_peers": 3, "shared_stages": 1}), ("LayerwiseMCL", {})):
        model = build(name, **options).train()
        if "num_negatives" in options:
            model.set_training_labels([index % 10 for index in range(40)])
            before = model.criterion.banks.clone()
        wrapped = wrap(model)
        optimizer = OptimWrapper(torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1))
        own = torch.optim.SGD(model.weight_network.parameters(), **STEP) if name == "LayerwiseMCL" else None
        for step in range(3):
            # The first image of a step is the same in both processes: its entry is written once.
            indices = [step, *torch.randint(40, (3,), generator=generator).tolist()]
            images = torch.randn(4, 3, 16, 16, generator=generator, dtype=torch.float64)
            labels = [DataSample(metainfo={"sample_idx": i}).set_gt_label(i % 10) for i in indices]
            optimizer.update_params(sum(wrapped(images, labels, mode="loss").values()))
            if own is not None:
                found = model.weight_gradient(images, labels, average=average_over_processes, **STEP)
                take_step(own, model.weight_network, found, STEP)
        assert_equal_on_all_ranks(model)
        if "num_negatives" in options:
            changed = (model.criterion.banks != before).any(2).any(0).sum()
            assert changed > 12  # more than one process's own images


def check_all(rank: int) -> None:
    """Make all checks in one of two processes that have joined each other."""
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels, half = samples(0, 0, 1, 2, 1, 2, 0, 0), slice(4 * rank, 4 * rank + 4)
    check_gathered_contrast(images, labels, half)
    check_meta_gradient(images, labels, half)
    check_training(rank)
