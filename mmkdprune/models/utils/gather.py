"""Rows of all processes as one tensor, with gradients that find their way back."""

from typing import Any

import torch
import torch.distributed as torch_dist
from mmengine.dist import get_rank, get_world_size
from torch import Tensor


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.number = rows.shape[0]
        return _concatenate_ranks(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _OwnRowsOfSum.apply(gradient, ctx.number)


class _OwnRowsOfSum(torch.autograd.Function):
    """The transpose of gathering; a function of its own, so that gradients of gradients work, too."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, number: int) -> Tensor:
        total = rows.clone(memory_format=torch.contiguous_format)
        torch_dist.all_reduce(total)
        return total[number * get_rank() : number * (get_rank() + 1)]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _GatherRows.apply(gradient), None


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate the rows of all processes, in the order of their ranks.

    The gradient of a row is the sum of what all processes pass back to it. ``DistributedDataParallel`` averages over
    processes, so losses that are means over a process's own rows give the gradient of the mean over all rows.

    Args:
        rows (Tensor): (B, ...), of the same shape in all processes.

    Returns:
        Tensor: (W * B, ...) for W processes; ``rows`` itself for one.
    """
    if get_world_size() == 1:
        return rows
    if rows.requires_grad and torch.is_grad_enabled():
        return _GatherRows.apply(rows)
    return _concatenate_ranks(rows)


def _concatenate_ranks(rows: Tensor) -> Tensor:
    parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(get_world_size())]
    torch_dist.all_gather(parts, rows.detach().contiguous())
    return torch.cat(parts)
