"""A training step in two processes against the same step in one; started as a script by test_ddp_step.py."""

import sys
from pathlib import Path

import torch
import torch.distributed as torch_dist
from mmengine.model import MMDistributedDataParallel
from testing_helpers import build_model, network, samples, save_weights

from mmkdprune.compat.distributed import leave_finished_process


def build(name: str, folder: Path):
    """Build an algorithm, the same in every process."""
    torch.manual_seed(0)
    options = {}
    if name == "HSAKD-teacher":
        name, options = "HSAKD", {"phase": "teacher"}
    elif name in ("HSAKD", "KnowledgeDistillation"):
        path = folder / f"{name}-{torch_dist.get_rank()}.pth"
        teacher = build_model("mmkdprune.HSAKD", phase="teacher", **network(8))
        options = {"teacher": {**network(8), "checkpoint": save_weights(teacher, path)}}
    model = build_model(f"mmkdprune.{name}", **network(8), **options)
    model.init_weights()
    return model


def gradients(model, images, data_samples):
    """Gradients of the total loss."""
    sum(model(images, data_samples, mode="loss").values()).backward()
    return {name.removeprefix("module."): value.grad.clone() for name, value in model.named_parameters()}


def main(rank: int, folder: Path) -> None:
    """One of two processes."""
    torch.set_num_threads(1)
    torch_dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(8, 3, 16, 16, generator=generator), samples(*range(8))
    half = slice(4 * rank, 4 * rank + 4)
    for name in ("HSAKD-teacher", "HSAKD", "OnlineHSSAKD", "KnowledgeDistillation"):
        # Batch norm with its running statistics: those of a batch differ between one process and two.
        expected = gradients(build(name, folder).eval(), images, labels)
        wrapped = MMDistributedDataParallel(build(name, folder).eval(), device_ids=None, broadcast_buffers=False)
        actual = gradients(wrapped, images[half], labels[half])
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)
        optimizer = torch.optim.SGD(wrapped.train().parameters(), 0.1)
        for _ in range(2):
            optimizer.zero_grad()
            gradients(wrapped, images[half], labels[half])
            optimizer.step()
        for parameter in wrapped.parameters():
            other = parameter.detach().clone()
            torch_dist.broadcast(other, 0)
            assert torch.equal(other, parameter), name
    leave_finished_process()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
