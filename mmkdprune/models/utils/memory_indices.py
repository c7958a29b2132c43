"""Which entries of the memory banks a sample is compared with."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn as nn
from mmpretrain.structures import DataSample
from torch import Tensor

from mmkdprune.randomness import PrivateRandom, to_device

_WIDE = 2**62  # random integers below it leave a remainder that is even to one part in 2^40


class MemoryIndexSampler(nn.Module):
    """Draw positives and negatives of each sample from the whole training set, on the samples' device.

    With the images sorted by class, those of all other classes are what comes before and after a class's block: a
    number below ``n - n_c`` is drawn and moved past the block. So the tables take two integers an image, and none a
    pair of class and image.

    Source: Yang et al., "Mutual Contrastive Learning for Visual Representation Learning", AAAI 2022 (memory bank).

    Args:
        num_positives (int): Images of the same class a sample, drawn with replacement; one may be the sample itself.
            Defaults to 1.
        num_negatives (int): Images of other classes a sample, drawn with replacement. Defaults to 8192.

    Raises:
        ValueError: If a number is not 1 or more.
    """

    labels: Tensor
    order: Tensor
    starts: Tensor
    counts: Tensor

    def __init__(self, num_positives: int = 1, num_negatives: int = 8192) -> None:
        super().__init__()
        for name, number in (("num_positives", num_positives), ("num_negatives", num_negatives)):
            if not isinstance(number, int) or number < 1:
                raise ValueError(f"MemoryIndexSampler: {name} must be an integer of 1 or more, got {number!r}.")
        self.num_positives, self.num_negatives = num_positives, num_negatives
        self.random = PrivateRandom("mcl.memory_indices")
        for name in ("labels", "order", "starts", "counts"):  # follow from the training set: not in the checkpoint
            self.register_buffer(name, None, persistent=False)

    def set_labels(self, labels: Sequence[int], device: torch.device | str = "cpu") -> None:
        """Learn the classes of the training set.

        Args:
            labels (Sequence[int]): The class of each image, by its sample index, (n,).
            device (torch.device | str): Where indices are drawn. Defaults to the CPU.

        Raises:
            ValueError: If there is one class only, and so no negative.
        """
        table = np.asarray(labels)
        counts = np.bincount(table)
        if np.count_nonzero(counts) < 2:
            raise ValueError(
                "MemoryIndexSampler: all images are of one class, so there are no negatives: correct the annotations."
            )
        order = np.argsort(table, kind="stable")
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        for name, values in (("labels", table), ("order", order), ("starts", starts), ("counts", counts)):
            setattr(self, name, torch.from_numpy(values.astype(np.int64)).to(device))

    def forward(self, indices: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the entries for a batch.

        Args:
            indices (Tensor): Sample index of each image, int64, (B,).
            target (Tensor): Its class, int64, (B,).

        Returns:
            tuple[Tensor, Tensor]: Positives (B, 1 + P), the sample's own index first, and negatives (B, K).

        Raises:
            ValueError: If the labels were not set, or (on a CPU) an image has another class than its sample index says.
        """
        if self.labels is None:
            raise ValueError(
                "the memory bank needs the labels of the training set: call set_training_labels(labels) of the model "
                "before the first step (in a run TrainingLabelsHook does)."
            )
        self._check(indices, target)
        device = indices.device
        generator = torch.Generator(device)
        # A seed a step: the stream stays resumable on the host, and the device draws the millions of numbers.
        generator.manual_seed(int(self.random.generator.integers(2**62)))
        starts, counts = self.starts[target, None], self.counts[target, None]  # (B, 1)
        shape = (len(indices), self.num_positives + self.num_negatives)
        drawn = torch.randint(_WIDE, shape, generator=generator, device=device)
        positives = starts + drawn[:, : self.num_positives] % counts
        negatives = drawn[:, self.num_positives :] % (len(self.order) - counts)
        negatives = negatives + counts * (negatives >= starts)
        return torch.cat([indices[:, None], self.order[positives]], dim=1), self.order[negatives]

    def _check(self, indices: Tensor, target: Tensor) -> None:
        if indices.device.type == "cpu" and int(indices.max()) >= len(self.labels):
            raise ValueError(
                f"sample index {int(indices.max())} lies outside the {len(self.labels)} images of the training set, "
                "for which the memory bank was made: the indices are those of another (larger) data set. Train on the "
                "data set itself, without a wrapper that keeps the indices of the inner one."
            )
        if indices.device.type not in ("cpu", "cuda"):
            return  # other devices have no assertion that does not wait
        message = "an image has another class than the training set's labels say of its sample index"
        try:
            torch._assert_async((self.labels[indices] == target).all(), message)
        except RuntimeError:
            raise ValueError(
                f"{message}: a data set wrapper changes labels or indices, such as one that repeats or concatenates "
                "data sets. Train on the data set itself."
            ) from None


def sample_indices(data_samples: Sequence[DataSample], device: torch.device) -> Tensor:
    """Collect the index of each image in its training set.

    Args:
        data_samples (Sequence[DataSample]): The batch.
        device (torch.device): Where to put them.

    Returns:
        Tensor: int64, (B,).

    Raises:
        ValueError: If a sample has none.
    """
    indices = [sample.get("sample_idx") for sample in data_samples]
    if any(index is None for index in indices):
        raise ValueError(
            "the memory bank needs to know which image is which, but the data samples have no sample_idx: MMEngine's "
            "data sets return it; keep it in the pipeline's last transform, dict(type='PackInputs', "
            "meta_keys=('sample_idx', ...)), or return it from get_data_info of a data set of your own."
        )
    return to_device(torch.tensor(indices), device)
