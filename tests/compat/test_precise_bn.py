import pytest
import torch
from mmengine.model import BaseModel
from mmpretrain.engine.hooks import precise_bn_hook
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

import mmkdprune.datasets  # noqa: F401  (where the patch is made)


class Normalised(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def forward(self, inputs, data_samples=None, mode="tensor"):
        return self.norm(inputs)


ROWS = [{"inputs": row} for row in torch.randn(12, 2, generator=torch.Generator().manual_seed(0))]
BATCHES = BatchSampler(SequentialSampler(ROWS), 4, drop_last=True)


@pytest.mark.parametrize(
    "settings",
    [{"batch_size": 4}, {"batch_sampler": BATCHES}, {"batch_size": None, "sampler": BATCHES}],
    ids=["batch size", "batch sampler", "whole batches"],
)
@pytest.mark.parametrize("images", [8, 8192])
def test_statistics_of_loaders_with_any_sampler(settings, images):
    rows = ROWS
    if settings.get("sampler") is BATCHES:  # as BatchedDataset, which is asked for a whole batch
        rows = type("Batched", (), {"__getitem__": lambda self, indices: torch.utils.data.default_collate(
            [ROWS[index] for index in indices]
        ), "__len__": lambda self: len(ROWS)})()  # fmt: skip
    model = Normalised().train()
    precise_bn_hook.update_bn_stats(model, DataLoader(rows, **settings), images, logger="silent")
    seen = torch.stack([row["inputs"] for row in ROWS])[:images].unflatten(0, (-1, 4))
    torch.testing.assert_close(model.norm.running_mean, seen.mean((0, 1)))
    torch.testing.assert_close(model.norm.running_var, seen.var(1).mean(0))
