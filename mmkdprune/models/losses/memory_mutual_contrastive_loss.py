"""The objective of MCL with memory banks: embeddings and bank entries in, named terms out."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmkdprune.arguments import checked
from mmkdprune.registry import MODELS

from ..utils import check_embeddings, check_temperature, gather_rows, is_number, upcast_half, without_autocast
from .kd_loss import kd_loss
from .mutual_contrast import network_pairs
from .mutual_contrastive_loss import check_tau

TERMS = ("loss_vcl", "loss_soft_vcl", "loss_icl", "loss_soft_icl")


class _KnownGradient(torch.autograd.Function):
    """Values whose gradients were computed together with them."""

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, values: Tensor, gradients: Tensor) -> Tensor:
        ctx.save_for_backward(gradients)
        return values.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        (gradients,) = ctx.saved_tensors
        return torch.einsum("t,t...->...", outer, gradients), None, None


@MODELS.register_module()
class MemoryMutualContrastiveLoss(nn.Module):
    """Contrast each image with memorised embeddings of other images, within each of M networks and between them.

    Each network has a bank with one vector an image of the training set. Anchors of network i are compared with entries
    of bank j: the image itself, P images of its class and K of others. The terms are those of
    :class:`MutualContrastiveLoss`, with the mean over positives of the negative log-softmax over all entries as
    contrast; within a network the image itself is left out. Banks carry no gradient. After the terms, in training
    mode, the image's entries become ``normalise(momentum * old + (1 - momentum) * embedding)``, in all processes for
    the images of all processes.

    Gathered entries of one bank (and, with ``chunk_size``, of some columns) are in memory at a time: gradients are
    computed together with the terms, for which the entries are gathered a second time.

    Source: Yang et al., "Mutual Contrastive Learning for Visual Representation Learning", AAAI 2022, arXiv 2104.12565;
    the terms are those of the authors' ImageNet code.

    Args:
        num_samples (int, optional): Images of the training set n. Without it :meth:`allocate` must be called.
        dim (int): Dimensions D of the embeddings. Defaults to 128.
        num_nets (int): Number of networks M. Defaults to 2.
        tau (float): Temperature of the similarities. Defaults to 0.07 (the authors' value for ImageNet).
        temperature (float): Further softmax temperature of the soft terms. Defaults to 3 (the authors' value).
        momentum (float): Share of the old vector in a bank's new one, between 0 and 1. Defaults to 0.5.
        chunk_size (int, optional): Columns of entries that are gathered at a time. Defaults to None, all.

    Attributes:
        banks (Tensor): The memory banks, a buffer, (M, n, D); drawn evenly from ±sqrt(3 / D) at first.

    Raises:
        ValueError: If an option is out of its range.
    """

    banks: Tensor

    @checked
    def __init__(
        self,
        num_samples: int | None = None,
        dim: int = 128,
        num_nets: int = 2,
        tau: float = 0.07,
        temperature: float = 3.0,
        momentum: float = 0.5,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.tau, self.temperature = check_tau(name, tau), check_temperature(name, temperature)
        if not (is_number(momentum) and 0 <= momentum <= 1):
            raise ValueError(f"{name}: momentum must lie between 0 and 1, got {momentum!r}.")
        if chunk_size is not None and (not isinstance(chunk_size, int) or chunk_size < 1):
            raise ValueError(f"{name}: chunk_size must be an integer of 1 or more, or None, got {chunk_size!r}.")
        for field, number in (("dim", dim), ("num_nets", num_nets)):
            if not isinstance(number, int) or number < 1:
                raise ValueError(f"{name}: {field} must be an integer of 1 or more, got {number!r}.")
        self.momentum, self.chunk_size = momentum, chunk_size
        self.num_nets, self.dim, self.num_samples = num_nets, dim, num_samples
        self.register_buffer("banks", None)
        if num_samples is not None:
            self.allocate(num_samples)

    def allocate(self, num_samples: int, device: torch.device | str = "cpu") -> None:
        """Draw the banks, unless there are some.

        Args:
            num_samples (int): Images of the training set n.
            device (torch.device | str): Where they are kept. Defaults to the CPU.

        Raises:
            ValueError: If the banks, or the option ``num_samples``, are for another number of images.
        """
        if not isinstance(num_samples, int) or num_samples < 1:
            raise ValueError(
                f"{type(self).__name__}: num_samples must be an integer of 1 or more, got {num_samples!r}."
            )
        if self.banks is not None:
            if self.banks.shape[1] != num_samples:
                raise ValueError(
                    f"{type(self).__name__}: the banks hold num_samples={self.banks.shape[1]} images and the training "
                    f"set has {num_samples}: leave num_samples out of the config, then the banks are made to measure."
                )
            return
        bound = math.sqrt(3 / self.dim)
        drawn = torch.empty(self.num_nets, num_samples, self.dim).uniform_(-bound, bound)
        self.banks = drawn.to(device)

    @checked
    def forward(self, embeddings: Sequence[Tensor], positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """Compute the unweighted terms, then update the banks (in training mode).

        Args:
            embeddings (Sequence[Tensor]): One (B, D) tensor of unit rows a network.
            positives (Tensor): Bank indices, int64, (B, 1 + P): the image's own first, then P >= 1 of its class.
            negatives (Tensor): Bank indices of images of other classes, int64, (B, K).

        Returns:
            dict[str, Tensor]: Scalars ``loss_vcl, loss_soft_vcl, loss_icl, loss_soft_icl``; one network has the first
            only.

        Raises:
            ValueError: If shapes do not fit, or the banks were not allocated.
        """
        self._check(embeddings, positives, negatives)
        stacked = torch.stack([upcast_half(rows) for rows in embeddings])  # (M, B, D)
        indices = torch.cat([positives, negatives], dim=1)  # (B, W) with W = 1 + P + K
        with torch.no_grad(), without_autocast(stacked):
            similarities = self._similarities(stacked, indices)
            if stacked.requires_grad:
                with torch.enable_grad():
                    similarities.requires_grad_()
                    terms = self._terms(similarities, positives.shape[1])
                slopes = [torch.autograd.grad(term, similarities, retain_graph=True)[0] for term in terms]
                gradients = self._pull_back(torch.stack(slopes), indices, stacked)
            else:
                terms = self._terms(similarities, positives.shape[1])
        values = torch.stack(terms).detach()
        if stacked.requires_grad:
            values = _KnownGradient.apply(stacked, values, gradients)
        if self.training:
            self._update(stacked.detach(), positives[:, 0])
        return dict(zip(TERMS, values.unbind(), strict=False))

    def _chunks(self, indices: Tensor) -> list[slice]:
        size = self.chunk_size or indices.shape[1]
        return [slice(start, start + size) for start in range(0, indices.shape[1], size)]

    def _similarities(self, stacked: Tensor, indices: Tensor) -> Tensor:
        """Compare all networks with the entries of all banks: (M, M, B, W), network first, bank second."""
        anchors = stacked.transpose(0, 1) / self.tau  # (B, M, D)
        result = stacked.new_empty(self.num_nets, self.num_nets, *indices.shape)
        for number, bank in enumerate(self.banks.to(stacked.dtype)):
            for columns in self._chunks(indices):
                entries = bank[indices[:, columns]]  # (B, w, D)
                result[:, number, :, columns] = (anchors @ entries.transpose(1, 2)).transpose(0, 1)
        return result

    def _pull_back(self, slopes: Tensor, indices: Tensor, stacked: Tensor) -> Tensor:
        """From gradients with respect to similarities, (4, M, M, B, W), to those for embeddings, (4, M, B, D)."""
        terms, nets = slopes.shape[:2]
        result = stacked.new_zeros(stacked.shape[1], terms * nets, self.dim)  # (B, 4 * M, D)
        for number, bank in enumerate(self.banks.to(stacked.dtype)):
            for columns in self._chunks(indices):
                rows = slopes[:, :, number, :, columns].flatten(0, 1).transpose(0, 1)  # (B, 4 * M, w)
                result += rows @ bank[indices[:, columns]]
        return (result / self.tau).transpose(0, 1).unflatten(0, (terms, nets))

    def _terms(self, similarities: Tensor, num_positives: int) -> list[Tensor]:
        """The terms in the order of ``TERMS``; one network has the first only."""
        within = similarities.diagonal(dim1=0, dim2=1).permute(2, 0, 1)[..., 1:]  # (M, B, W - 1)
        vcl = _contrast(within, num_positives - 1)
        if self.num_nets == 1:
            return [vcl]
        first, second = network_pairs(self.num_nets, similarities.device)
        across = similarities[first, second]  # (P, B, W)
        soft_vcl = _mutual(within[first], within[second], self.temperature)
        soft_icl = _mutual(across, similarities[second, first], self.temperature)
        return [vcl, soft_vcl, _contrast(across, num_positives), soft_icl]

    @torch.no_grad()
    def _update(self, stacked: Tensor, own: Tensor) -> None:
        vectors = gather_rows(stacked.transpose(0, 1)).transpose(0, 1)  # (M, n, D) of all processes
        own = gather_rows(own)
        # An image that was drawn twice takes its last vector, whatever the order in which a device writes.
        positions = torch.arange(len(own), device=own.device)
        last = torch.where(own[:, None] == own, positions, -1).amax(1)
        old = self.banks[:, own].to(vectors.dtype)
        new = F.normalize(self.momentum * old + (1 - self.momentum) * vectors[:, last], dim=-1)
        self.banks[:, own] = new.to(self.banks.dtype)

    def _check(self, embeddings: Sequence[Tensor], positives: Tensor, negatives: Tensor) -> None:
        name = type(self).__name__
        check_embeddings(name, embeddings)
        if self.banks is None:
            raise ValueError(
                f"{name}: there are no banks yet: give num_samples, the number of images in the training set, or call "
                "allocate(num_samples)."
            )
        shape = (self.num_nets, *embeddings[0].shape)
        if len(embeddings) != self.num_nets or shape[2] != self.dim:
            raise ValueError(
                f"{name}: made for num_nets={self.num_nets} embeddings of dim={self.dim}, got {len(embeddings)} of "
                f"{shape[2]}."
            )
        for field, indices, columns in (("positives", positives, 2), ("negatives", negatives, 1)):
            if indices.ndim != 2 or len(indices) != shape[1] or indices.shape[1] < columns:
                raise ValueError(
                    f"{name}: {field} must be indices of shape (B, {columns} or more) for B = {shape[1]} images, got "
                    f"{tuple(indices.shape)}."
                )


def _contrast(similarities: Tensor, num_positives: int) -> Tensor:
    """Sum over the first axis of the mean over anchors and positives of -log-softmax."""
    return -F.log_softmax(similarities, dim=-1)[..., :num_positives].mean((1, 2)).sum()


def _mutual(students: Tensor, teachers: Tensor, temperature: float) -> Tensor:
    """Sum over the first axis (pairs) of the distillation of rows."""
    return len(students) * kd_loss(students.flatten(0, 1), teachers.flatten(0, 1), temperature)
