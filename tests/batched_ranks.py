"""Batches of one epoch in two processes; started as a script by test_dataset.py of the batched path."""

import sys
from pathlib import Path

import torch
import torch.distributed as torch_dist
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, set_random_seed

from mmkdprune.compat.distributed import leave_finished_process


def main(rank: int, folder: Path) -> None:
    """One of two processes."""
    torch_dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    init_default_scope("mmpretrain")
    crop = {"type": "RandomCrop", "crop_size": 16, "padding": 8}
    digits = {"type": "mmkdprune.Digits", "indices": 96, "pipeline": [crop, {"type": "PackInputs"}]}
    loader = {
        "dataset": {"type": "mmkdprune.BatchedDataset", "dataset": digits},
        "collate_fn": {"type": "mmkdprune.batched_collate"},
        "sampler": {"type": "DefaultSampler", "shuffle": True},
        "batch_size": 16,
    }
    set_random_seed(0)  # the same in both, as MMEngine seeds them by default
    batches = list(Runner.build_dataloader(loader, seed=0))
    torch.save(
        {
            "indices": [sample.sample_idx for batch in batches for sample in batch["data_samples"]],
            "images": torch.cat([batch["inputs"] for batch in batches]),
            "seeds": torch.rand(3),
        },
        folder / f"rank{rank}.pth",
    )
    leave_finished_process()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
