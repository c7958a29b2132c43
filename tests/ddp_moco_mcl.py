"""MCL without labels in two processes; started as a script by test_moco_mcl.py."""

import sys
from pathlib import Path

import torch
import torch.distributed as torch_dist
from ddp_mcl import assert_equal_on_all_ranks, wrap
from mmengine.dist import all_reduce_params
from mmengine.optim import OptimWrapper
from testing_helpers import build_model

from mmkdprune.compat.distributed import leave_finished_process

HALF = 4


def build(seed=0, **options):
    """Build the cohort in double precision; processes may have seeds of their own."""
    torch.manual_seed(seed)
    model = build_model(
        "mmkdprune.MoCoMCL",
        backbone={"type": "mmkdprune.CifarResNet", "depth": 8},
        neck={"type": "LinearNeck", "in_channels": 64, "out_channels": 8, "gap_dim": 2, "norm_cfg": None},
        queue_len=24,
        feat_dim=8,
        momentum=0.1,
        **options,
    )
    model.init_weights()
    return model.double()


def images(step):
    """Two views of the images of all processes."""
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(2 * HALF, 3, 16, 16, generator=generator, dtype=torch.float64) for _ in range(2)]


def check_round_trip(rank: int) -> None:
    """Keys come back in the order of the images, though each process runs a random half of them."""
    half = slice(HALF * rank, HALF * rank + HALF)
    whole = images(0)[1]
    for groups in (1, 2):
        model = build(num_groups=groups).eval()
        seen = []
        model.key_encoders[0].backbone.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0]))
        keys = model.compute_keys(whole[half])
        expected = torch.stack([encoder(whole) for encoder in model.key_encoders], 1)
        torch.testing.assert_close(keys, expected)
        mine = torch.cat(seen[:groups])
        parts = [torch.empty_like(mine) for _ in range(2)]
        torch_dist.all_gather(parts, mine)
        order = [next(i for i in range(len(whole)) if torch.equal(row, whole[i])) for row in torch.cat(parts)]
        assert sorted(order) == list(range(2 * HALF))
        assert order != sorted(order), "the images were not shuffled"


def check_against_one_process(rank: int) -> None:
    """Under frozen statistics two processes give the losses, gradients and queues of one with all images."""
    half = slice(HALF * rank, HALF * rank + HALF)
    alone, shared = build(), wrap(build())
    for model in (alone, shared.module):
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
    # One process after the other would need all images in one: the reference is computed without the process group.
    first, second = images(1)
    queries = alone.encode_queries(first)
    for encoder, network in zip(alone.key_encoders, alone.networks(), strict=True):
        encoder.update(network.backbone, network.neck)
    keys = alone.encode_keys(second)
    expected = alone.criterion.terms(alone.criterion.compare(queries, keys.unbind(1)))
    sum(expected.values()).backward()
    losses = shared([first[half], second[half]], None, mode="loss")
    sum(value for name, value in losses.items() if "loss" in name).backward()
    for name in expected:
        mean = losses[name].detach().clone()
        torch_dist.all_reduce(mean)
        torch.testing.assert_close(mean / 2, expected[name].detach())
    for (name, ours), theirs in zip(shared.module.named_parameters(), alone.parameters(), strict=True):
        if theirs.requires_grad:
            torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
    torch.testing.assert_close(shared.module.state_dict()["criterion.queues"][:, : 2 * HALF], keys.transpose(0, 1))


def check_training(rank: int) -> None:
    """After some steps beyond the end of the ring, queues, pointers and weights agree; BN buffers may be averaged."""
    model = build(seed=rank)  # weights of the first process are handed on, queues are not
    for value in [*model.parameters(), *model.buffers()]:
        torch_dist.broadcast(value.data, 0)
    wrapped = wrap(model.train())
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), 0.05))
    half = slice(HALF * rank, HALF * rank + HALF)
    for step in range(4):
        losses = wrapped([view[half] for view in images(step)], None, mode="loss")
        optimizer.update_params(sum(value for name, value in losses.items() if "loss" in name))
    assert model.state_dict()["criterion.pointer"].tolist() == [8]
    assert_equal_on_all_ranks(model)
    before = {name: value.clone() for name, value in model.criterion.named_buffers()}
    all_reduce_params(model.buffers(), op="mean")  # as SyncBuffersHook does
    assert all(torch.equal(value, before[name]) for name, value in model.criterion.named_buffers())


def main(rank: int, folder: Path) -> None:
    """One of two processes."""
    torch.set_num_threads(1)
    torch_dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    check_round_trip(rank)
    check_against_one_process(rank)
    check_training(rank)
    leave_finished_process()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
