"""A training step in two processes against the same step in one; started as a script by test_ddp_step.py.

With the checks of ``ddp_mcl.py``, so that two processes import everything and not four.
"""

import sys
from pathlib import Path

import ddp_mcl
import torch
import torch.distributed as torch_dist
from mmengine.model import MMDistributedDataParallel
from testing_helpers import ALGORITHMS, build_algorithm, join_two_processes, samples

from mmkdprune.compat.distributed import leave_finished_process
from mmkdprune.models.utils.compilation import compile_training


def gradients(model, images, data_samples):
    """Gradients of the total loss."""
    sum(model(images, data_samples, mode="loss").values()).backward()
    return {name.removeprefix("module."): value.grad.clone() for name, value in model.named_parameters()}


def wrapped(model):
    """The model as MMEngine wraps it; parameters that take no part in a step would be an error in the next one."""
    return MMDistributedDataParallel(model, device_ids=None, broadcast_buffers=False)


def assert_ranks_agree(model, images, data_samples, name):
    """Take two steps and compare the parameters with those of the first process."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        gradients(model, images, data_samples)
        optimizer.step()
    for parameter in model.parameters():
        other = parameter.detach().clone()
        torch_dist.broadcast(other, 0)
        assert torch.equal(other, parameter), name


def main(rank: int, folder: Path) -> None:
    """One of two processes."""
    join_two_processes(rank, folder)
    own = folder / str(rank)
    own.mkdir()
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(8, 3, 16, 16, generator=generator), samples(*range(8))
    half = slice(4 * rank, 4 * rank + 4)
    for name in ALGORITHMS:
        # Batch norm with its running statistics: those of a batch differ between one process and two.
        model = wrapped(build_algorithm(name, own).eval())
        if name != "MixSKD":  # it mixes the images of a process with each other
            expected = gradients(build_algorithm(name, own).eval(), images, labels)
            torch.testing.assert_close(gradients(model, images[half], labels[half]), expected, rtol=1e-4, atol=1e-6)
        assert_ranks_agree(model.train(), images[half], labels[half], name)
    for name in ("ImageClassifier", "HSAKD"):
        compiled = build_algorithm(name, own, is_short=True).eval()
        compile_training(compiled, backend="aot_eager")
        expected = gradients(wrapped(build_algorithm(name, own, is_short=True).eval()), images[half], labels[half])
        model = wrapped(compiled)
        torch.testing.assert_close(gradients(model, images[half], labels[half]), expected, rtol=1e-4, atol=1e-6)
        # As it is: in training mode it would be compiled once more.
        assert_ranks_agree(model, images[half], labels[half], f"{name}, compiled")
    ddp_mcl.check_all(rank)
    leave_finished_process()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
