"""The objective of MCL without labels: embeddings of two views in, named terms out."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmkdprune.arguments import checked
from mmkdprune.registry import MODELS

from ..utils import check_embeddings, check_temperature, gather_rows, upcast_half, without_autocast
from .mutual_contrastive_loss import check_tau


@MODELS.register_module()
class QueueMutualContrastiveLoss(nn.Module):
    """Contrast two views of an image with queues of earlier images, within each of M networks and between them.

    Each network has a query of an image's first view, a key of its second one and a queue of K earlier keys. The logits
    of networks i and j are ``[<q_i, k_j>, <q_i, queue_j>] / tau``, (B, 1 + K); the image's own key is the right answer.

    - ``loss_vcl``: the sum over networks of the cross-entropy of logits ii,
    - ``loss_icl``: the sum over ordered pairs of the cross-entropy of logits ij,
    - ``loss_soft_vcl``: the sum over ordered pairs of ``KD_T(logits ii, logits jj)``,
    - ``loss_soft_icl``: the sum over ordered pairs of ``KD_T(logits ij, logits ji)``,

    where ``KD_T(s, t) = T^2 KL(t || s)``, with the teacher t detached, is a mean over images. Neither keys nor queues
    carry a gradient. The terms see the queues as they were before the batch; afterwards, in training mode, the keys of
    all processes take the places of the oldest ones. They are written when the queues are next read (in the next step,
    or for a checkpoint), since the backward pass still needs what they replace: no step copies a queue.

    Source: Yang et al., "Mutual Contrastive Learning for Visual Representation Learning", AAAI 2022, arXiv 2104.12565;
    the terms are those of the authors' self-supervised code, on He et al., "Momentum Contrast for Unsupervised Visual
    Representation Learning", CVPR 2020, arXiv 1911.05722.

    Args:
        queue_size (int): Keys in each queue K; the images of a step in all processes must divide it. Defaults to 65536
            (the authors' value).
        dim (int): Dimensions D of the embeddings. Defaults to 128.
        num_nets (int): Number of networks M. Defaults to 2.
        tau (float): Temperature of the similarities. Defaults to 0.07 (the authors' value).
        temperature (float): Further softmax temperature T of the soft terms. Defaults to 3 (the authors' value).

    Attributes:
        queues (Tensor): Keys, unit rows, a buffer, (M, K, D); random at first.
        pointer (Tensor): Place of the oldest key in every queue, an int64 buffer, (1,).

    Raises:
        ValueError: If an option is out of its range.
    """

    queues: Tensor
    pointer: Tensor

    @checked
    def __init__(
        self,
        queue_size: int = 65536,
        dim: int = 128,
        num_nets: int = 2,
        tau: float = 0.07,
        temperature: float = 3.0,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.tau, self.temperature = check_tau(name, tau), check_temperature(name, temperature)
        for field, number in (("queue_size", queue_size), ("dim", dim), ("num_nets", num_nets)):
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise ValueError(f"{name}: {field} must be an integer of 1 or more, got {number!r}.")
        self.queue_size, self.dim, self.num_nets = queue_size, dim, num_nets
        self.register_buffer("queues", F.normalize(torch.randn(num_nets, queue_size, dim), dim=2))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.int64))
        self._waiting: Tensor | None = None  # keys (M, n, D) that the queues do not hold yet

    @checked
    def forward(self, queries: Sequence[Tensor], keys: Sequence[Tensor]) -> dict[str, Tensor]:
        """Compute the unweighted terms, then update the queues (in training mode).

        Args:
            queries (Sequence[Tensor]): Unit embeddings of the first view, one (B, D) tensor a network.
            keys (Sequence[Tensor]): Unit embeddings of the second view by the key encoders, likewise.

        Returns:
            dict[str, Tensor]: Scalars ``loss_vcl, loss_soft_vcl, loss_icl, loss_soft_icl``; one network has the first
            only.

        Raises:
            ValueError: If shapes do not fit, or the batch does not divide the queue.
        """
        losses = self.terms(self.compare(queries, keys))
        if self.training:
            self.enqueue(gather_rows(torch.stack(list(keys), dim=1).detach()))
        return losses

    def compare(self, queries: Sequence[Tensor], keys: Sequence[Tensor]) -> Tensor:
        """Compare the queries of all networks with the keys and queues of all networks.

        Args:
            queries (Sequence[Tensor]): Unit embeddings, one (B, D) tensor a network.
            keys (Sequence[Tensor]): Likewise; no gradient reaches them.

        Returns:
            Tensor: Logits, (M, M, B, 1 + K) in float32 or wider: network of the query, network of the keys, image, and
            its own key before the queue.

        Raises:
            ValueError: If shapes do not fit.
        """
        self._check(queries, keys)
        self.write_waiting()
        asked = torch.stack([upcast_half(rows) for rows in queries]) / self.tau  # (M, B, D)
        answers = torch.stack([upcast_half(rows.detach()) for rows in keys]).to(asked.dtype)
        number, images, _ = asked.shape
        with without_autocast(asked):
            own = torch.einsum("ibd,jbd->ijb", asked, answers)
            others = asked.flatten(0, 1) @ self.queues.to(asked.dtype).flatten(0, 1).T  # (M * B, M * K)
        others = others.view(number, images, number, self.queue_size).transpose(1, 2)
        return torch.cat([own.unsqueeze(-1), others], dim=-1)

    def terms(self, logits: Tensor) -> dict[str, Tensor]:
        """Compute the unweighted terms.

        Args:
            logits (Tensor): From :meth:`compare`, (M, M, B, 1 + K).

        Returns:
            dict[str, Tensor]: As from :meth:`forward`.
        """
        contrast = (logits.logsumexp(-1) - logits[..., 0]).mean(-1)  # (M, M)
        vcl = contrast.trace()
        if len(logits) == 1:
            return {"loss_vcl": vcl}
        log_shares = F.log_softmax(logits / self.temperature, dim=-1)
        # Views of one tensor: an index would copy each queue's worth of logits.
        pairs = [(i, j) for i in range(len(logits)) for j in range(len(logits)) if i != j]
        soft_vcl = torch.stack([_divergence(log_shares[i, i], log_shares[j, j]) for i, j in pairs])
        soft_icl = torch.stack([_divergence(log_shares[i, j], log_shares[j, i]) for i, j in pairs])
        return {
            "loss_vcl": vcl,
            "loss_soft_vcl": self.temperature**2 * soft_vcl.sum(),
            "loss_icl": contrast.sum() - vcl,
            "loss_soft_icl": self.temperature**2 * soft_icl.sum(),
        }

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Let keys take the places of the oldest ones; in memory when the queues are next read.

        Args:
            keys (Tensor): Unit rows of all processes, in the same order in all of them, (n, M, D).

        Raises:
            ValueError: If n does not divide the size of the queue.
        """
        check_queue(type(self).__name__, "queue_size", self.queue_size, len(keys))
        self.write_waiting()
        self._waiting = keys.detach().transpose(0, 1)

    @torch.no_grad()
    def write_waiting(self) -> None:
        """Write the keys that wait since the last step into the queues, which must not be part of a graph any more."""
        keys, self._waiting = self._waiting, None
        if keys is None:
            return
        keys = keys.to(self.queues)
        # Places are counted on the device: a Python number would make the host wait for it.
        places = (self.pointer + torch.arange(keys.shape[1], device=keys.device)) % self.queue_size
        self.queues.index_copy_(1, places, keys)
        self.pointer.add_(keys.shape[1]).remainder_(self.queue_size)

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        self.write_waiting()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._waiting = None
        super()._load_from_state_dict(*args, **kwargs)

    def _check(self, queries: Sequence[Tensor], keys: Sequence[Tensor]) -> None:
        name = type(self).__name__
        check_embeddings(name, [*queries, *keys])
        if len(queries) != self.num_nets or len(keys) != self.num_nets or queries[0].shape[1] != self.dim:
            raise ValueError(
                f"{name}: made for num_nets={self.num_nets} networks with embeddings of dim={self.dim}, got queries of "
                f"{len(queries)} and keys of {len(keys)} with {queries[0].shape[1]} dimensions."
            )


def check_queue(owner: str, field: str, queue_size: int, images: int) -> None:
    """Refuse a queue that batches do not fill evenly.

    Args:
        owner (str): Who has the queue, for the message.
        field (str): The option with its size.
        queue_size (int): Keys in the queue.
        images (int): Images of a step in all processes.

    Raises:
        ValueError: If the images do not divide the queue.
    """
    if queue_size % images:
        nearest = max(1, round(queue_size / images)) * images
        raise ValueError(
            f"{owner}: {field}={queue_size} is no multiple of the {images} images of a step in all processes: set "
            f"{field}={nearest}, another train_dataloader.batch_size, and train_dataloader.drop_last=True if this is "
            "the leftover batch of an epoch."
        )


def _divergence(log_student: Tensor, log_teacher: Tensor) -> Tensor:
    """Mean over images of KL(teacher || student), with the teacher detached."""
    return F.kl_div(log_student, log_teacher.detach(), reduction="batchmean", log_target=True)
